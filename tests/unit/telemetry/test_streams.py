from __future__ import annotations

from dataclasses import dataclass

import pytest
from prometheus_client.core import HistogramMetricFamily

from dragoman_server.telemetry.histogram import Bounds, Histogram
from dragoman_server.telemetry.streams import StreamMeter, StreamTimes

MS = 1_000_000
BOUNDS = Bounds((0.01, 0.1, 1))


@dataclass
class Progress:
    has_content: bool = False
    provider: str = "p"


def test_a_time_falls_into_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram(BOUNDS)
    for nanos in (10 * MS, 10 * MS + 1, 100 * MS, 2000 * MS):
        histogram.observe(nanos)
    assert histogram.counts == [1, 2, 0, 1]
    assert histogram.count == 4


def test_a_clock_that_is_set_back_counts_as_no_time() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(-5)
    assert (histogram.counts[0], histogram.total) == (1, 0)


def test_prometheus_gets_seconds_and_sums_of_buckets() -> None:
    histogram = Histogram(BOUNDS)
    for nanos in (5 * MS, 50 * MS, 5000 * MS):
        histogram.observe(nanos)
    family = HistogramMetricFamily("x", "x", labels=("a",))
    histogram.write(family, ("b",))
    values = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert [values["x_bucket", le] for le in ("0.01", "0.1", "1", "+Inf")] == [1, 2, 2, 3]
    assert values["x_count", None] == 3
    assert values["x_sum", None] == pytest.approx(5.055)


def test_a_stream_is_measured_from_its_first_content_on() -> None:
    times = StreamTimes()
    meter, progress = StreamMeter(lambda provider: times, start=1000 * MS), Progress()
    meter.appended(1001 * MS, progress)  # it has begun
    progress.has_content = True
    meter.appended(1060 * MS, progress)
    assert times.first_content.total == 60 * MS
    assert times.gaps.count == 0
    for now in (1070, 1100):
        meter.appended(now * MS, progress)
    assert (times.gaps.count, times.gaps.total) == (2, 40 * MS)
    assert times.first_content.count == 1


def test_times_belong_to_who_gave_the_first_content() -> None:
    by_provider = {"a": StreamTimes(), "b": StreamTimes()}
    meter = StreamMeter(by_provider.__getitem__, start=0)
    meter.appended(MS, Progress(provider="a"))
    meter.appended(2 * MS, Progress(provider="b", has_content=True))
    meter.appended(3 * MS, Progress(provider="b", has_content=True))
    assert (by_provider["b"].first_content.count, by_provider["b"].gaps.count) == (1, 1)
    assert by_provider["a"].first_content.count == 0
