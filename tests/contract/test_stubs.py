"""The committed stubs say what the protos say. (`make check` also generates them anew and compares.)"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from tests.support.sources import ROOT, source_files

BUF = Path(sys.executable).with_name("buf")


def declared(folder: Path) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Compiles the protos without their comments, by file name."""
    image = folder / "image.binpb"
    subprocess.run([BUF, "build", "--exclude-source-info", "-o", image], cwd=ROOT, check=True, timeout=60)
    compiled = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    return {file.name: file for file in compiled.file if file.name.startswith("dragoman/")}


def plain(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Returns the file without what compilers add of their own."""
    copy = descriptor_pb2.FileDescriptorProto.FromString(file.SerializeToString())
    copy.DiscardUnknownFields()
    messages = list(copy.message_type)
    for message in messages:
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return copy


@pytest.mark.skipif(not BUF.is_file(), reason="buf is not installed in this environment")
def test_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    protos = declared(tmp_path)
    assert {str(file.relative_to(ROOT / "proto")) for file in source_files(".proto")} == set(protos)
    for name, proto in protos.items():
        module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        stub = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(stub)
        assert plain(stub) == plain(proto), f"{name}: run `make gen`"
