"""Every method of the contract that has a REST form is served by the edge under exactly that form."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

import grpc
from google.api import annotations_pb2
from prometheus_client import CollectorRegistry

from dragoman_edge.app import build_routes
from dragoman_edge.calls import Core
from dragoman_edge.edge import Edge
from dragoman_edge.metrics import EdgeMetrics
from dragoman_edge.settings import EdgeSettings
from tests.support.sources import ROOT, source_files

if TYPE_CHECKING:
    from collections.abc import Iterator


def annotated() -> Iterator[tuple[str, str, str]]:
    """Yields HTTP method, path and the full name of every annotated method."""
    for file in source_files("_service.proto"):
        name = str(file.relative_to(ROOT / "proto")).removesuffix(".proto").replace("/", ".")
        module = importlib.import_module(f"{name}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                if kind := rule.WhichOneof("pattern"):
                    yield kind.upper(), getattr(rule, kind), method.full_name


def anonymous(path: str) -> str:
    """Returns a path with its variables' names taken out: what they are called is nobody's business."""
    return re.sub(r"\{[^}]*\}", "{}", path)


async def test_annotated_methods_are_served() -> None:
    registry = CollectorRegistry()
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:  # only asked for its stubs
        edge = Edge(Core(channel), EdgeSettings(), EdgeMetrics(registry), registry)
        served = {(route.method, anonymous(route.path)) for route in build_routes(edge)}
    methods = list(annotated())
    assert len(methods) >= 4
    assert [name for method, path, name in methods if (method, anonymous(path)) not in served] == []
