from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from dragoman_edge.metrics import EdgeMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_answers_are_counted_by_route_method_and_status(registry: CollectorRegistry) -> None:
    metrics = EdgeMetrics(registry)
    for status in (200, 200, 404):
        metrics.counts_of("/a", "GET").add(status, 0.01)
    name = "dragoman_http_requests_total"
    assert registry.get_sample_value(name, {"route": "/a", "method": "GET", "status": "200"}) == 2
    assert registry.get_sample_value(name, {"route": "/a", "method": "GET", "status": "404"}) == 1
    assert registry.get_sample_value(name, {"route": "/b", "method": "GET", "status": "200"}) is None


def test_durations_fall_into_buckets_that_add_up(registry: CollectorRegistry) -> None:
    metrics = EdgeMetrics(registry)
    for seconds in (0.005, 0.006, 0.3, 1000.0):
        metrics.counts_of("/a", "GET").add(200, seconds)
    metrics.counts_of("/b", "GET").add(200, 0.0)

    def bucket(bound: str) -> float | None:
        return registry.get_sample_value("dragoman_http_request_seconds_bucket", {"route": "/a", "le": bound})

    assert [bucket(bound) for bound in ("0.005", "0.025", "0.25", "0.5", "300.0", "+Inf")] == [1, 2, 2, 3, 3, 4]
    assert registry.get_sample_value("dragoman_http_request_seconds_count", {"route": "/a"}) == 4
    assert registry.get_sample_value("dragoman_http_request_seconds_sum", {"route": "/a"}) == pytest.approx(1000.311)


def test_open_streams_are_those_within_the_block(registry: CollectorRegistry) -> None:
    metrics = EdgeMetrics(registry)

    def break_off() -> None:
        with metrics.open_stream(), metrics.open_stream():
            assert registry.get_sample_value("dragoman_http_open_streams") == 2
            raise ConnectionError

    with pytest.raises(ConnectionError):
        break_off()
    assert registry.get_sample_value("dragoman_http_open_streams") == 0


def test_the_page_has_every_family_before_anything_happened(registry: CollectorRegistry) -> None:
    EdgeMetrics(registry)
    page = generate_latest(registry).decode()
    for family, kind in (
        ("dragoman_http_requests_total", "counter"),
        ("dragoman_http_request_seconds", "histogram"),
        ("dragoman_http_open_streams", "gauge"),
        ("dragoman_http_open_connections", "gauge"),
        ("dragoman_http_refused_connections_total", "counter"),
    ):
        assert f"# TYPE {family} {kind}\n" in page
