"""Generates the Python stubs beside their protos, or checks that they are fresh.

Runs in an environment of its own (`make gen`): the versions of the generator are a public promise, because the stubs
they write bound the floors of grpcio and protobuf in pyproject.toml from below.

    python scripts/gen_protos.py           write the stubs
    python scripts/gen_protos.py --check   exit 1 and name what differs
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(out: Path) -> None:
    """Writes the stubs of every proto below `out`."""
    from grpc_tools import protoc  # only in the generator's environment

    protos = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{ROOT / 'third_party' / 'proto'}",
        f"-I{well_known}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        *protos,
    ]
    services = [p for p in protos if "\nservice " in (PROTO / p).read_text()]
    plugin = Path(sys.executable).parent / "protoc-gen-mypy_grpc"  # the environment need not be on the PATH
    outputs = [f"--plugin={plugin}", f"--grpc_python_out={out}", f"--mypy_grpc_out={out}"]
    grpc_arguments = [*arguments[:4], *outputs, *services]
    for argv in (arguments, grpc_arguments):
        if protoc.main(argv) != 0:
            sys.exit("protoc failed")


def stubs(base: Path) -> dict[str, Path]:
    """Returns the stubs below `base` by their path relative to it."""
    return {str(p.relative_to(base)): p for p in base.rglob("*") if p.name.endswith(SUFFIXES)}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        generate(out)
        fresh, present = stubs(out), stubs(PROTO)
        stale = [n for n, p in fresh.items() if n not in present or not filecmp.cmp(p, present[n], shallow=False)]
        surplus = sorted(set(present) - set(fresh))
        if check:
            if stale or surplus:
                sys.exit("not fresh, run `make gen`: " + ", ".join(sorted(stale) + surplus))
            print(f"{len(fresh)} stubs are fresh")
            return
        for name in stale:
            shutil.copy(fresh[name], PROTO / name)
        for name in surplus:
            present[name].unlink()
        print(f"{len(stale)} stubs written, {len(surplus)} removed")


if __name__ == "__main__":
    main()
