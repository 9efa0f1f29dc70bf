"""The built-in list of vendors: where they are, what they speak, and how they depart from it. All of it is data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a server departs from the common form of its dialect.

    Attributes:
        max_tokens_field: The field that limits the tokens of an answer.
        seed_field: The field of the random numbers' seed.
        developer_role: Whether messages may have the role `developer`; if not, they are sent as `system`.
        thoughts_field: The field of a message that takes the thoughts of the past; empty if there is none.
        stream_usage: Whether a stream must be asked for its usage with `stream_options`; others send it anyway.
        obfuscates: Whether it pads each chunk of a stream to hide its length, unless it is told not to. The padding
            differs from chunk to chunk, so that each has to be decoded whole.
        base64_embeddings: Whether vectors may be asked for in base64, which takes a third of the digits' room and is
            read far faster.
        max_embedding_inputs: Most inputs of one request for embeddings; more are sent in several.
        unsupported: Fields of `ChatSpec` that it does not know, as paths, for example `sampling.logit_bias`.
        renames: Whether it has other names for fields.
    """

    max_tokens_field: str = "max_tokens"
    seed_field: str = "seed"
    developer_role: bool = True
    thoughts_field: str = "reasoning_content"
    stream_usage: bool = True
    obfuscates: bool = False
    base64_embeddings: bool = False
    max_embedding_inputs: int = 256
    unsupported: frozenset[str] = frozenset()
    renames: bool = field(init=False)

    def __post_init__(self) -> None:
        renames = (self.max_tokens_field, self.seed_field) != ("max_tokens", "seed")
        object.__setattr__(self, "renames", renames)


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor of models, or a server that people run themselves.

    Attributes:
        name: The name in the configuration.
        title: The name for people.
        dialect: The wire dialect.
        base_url: Where it is; empty if every customer has an address of their own.
        auth: How the key is sent: `bearer`, `x-api-key`, `api-key`, `x-goog-api-key` or `none`.
        key_variable: The environment variable in which its users keep the key; empty if it needs none.
        hosts: Domains that belong to it, beside that of the base URL.
        quirks: How it departs from the dialect.
    """

    name: str
    title: str
    dialect: str
    base_url: str = ""
    auth: str = "bearer"
    key_variable: str = ""
    hosts: tuple[str, ...] = ()
    quirks: Quirks = Quirks()


UNKNOWN = Quirks(developer_role=False)
"""Of a server about which nothing is known: few know the role `developer`, and `system` means the same to them."""


@cache
def vendors() -> Mapping[str, Vendor]:
    """Returns all vendors by name."""
    text = resources.files(__package__).joinpath("vendors.toml").read_text("utf-8")
    return {name: _vendor(name, row) for name, row in tomllib.loads(text).items()}


def vendor_of_host(host: str) -> Vendor | None:
    """Returns the vendor whose server this is: by its name, or by the domain that it is in; None for this machine."""
    labels = host.lower().split(".")
    domains = {".".join(labels[cut:]) for cut in range(len(labels))}
    return next((vendor for vendor in vendors().values() if domains.intersection(_domains(vendor))), None)


def may_be_unsupported(path: str) -> bool:
    """Returns whether `Quirks.unsupported` may have a path: of a field of `ChatSpec`, or of its sampling."""
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman.v1.sampling_pb2 import Sampling

    inner = path.removeprefix("sampling.")
    return inner in (ChatSpec if inner == path else Sampling).DESCRIPTOR.fields_by_name


def _domains(vendor: Vendor) -> Iterator[str]:
    host = urlsplit(vendor.base_url).hostname
    if host is not None and host != "127.0.0.1":
        yield host
    yield from vendor.hosts


def _vendor(name: str, row: dict[str, Any]) -> Vendor:
    quirks = row.pop("quirks", {})
    if "unsupported" in quirks:
        quirks["unsupported"] = frozenset(quirks["unsupported"])
    return Vendor(name=name, quirks=Quirks(**quirks), hosts=tuple(row.pop("hosts", ())), **row)
