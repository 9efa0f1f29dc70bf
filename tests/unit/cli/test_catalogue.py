from __future__ import annotations

from dragoman.v1.catalog_service_pb2 import Model, ModelTarget
from dragoman_cli import catalogue


def test_a_target_that_is_shut_off_is_shown_with_the_reason() -> None:
    up = ModelTarget(provider="a", upstream_model="x", health=ModelTarget.HEALTH_UP)
    down = ModelTarget(provider="b", upstream_model="y", health=ModelTarget.HEALTH_DOWN, fault="PROVIDER_AUTH")
    assert catalogue._targets(Model(targets=[up, down])) == "a/x up, b/y down (PROVIDER_AUTH)"
