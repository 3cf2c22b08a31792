"""The metrics of several workers, as one."""

from pathlib import Path

from prometheus_client import generate_latest

from service.peers import Peers
from service.telemetry import Metrics


def scraped(peers: Peers, metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(peers.merged(metrics.registry)).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_counts_add_up_and_gauges_do_as_they_should(tmp_path: Path) -> None:
    """Counters, histograms and calls under way are the sum; the outbox is seen once."""
    one, two = Metrics(), Metrics()
    here, there = Peers(tmp_path, 1), Peers(tmp_path, 2)
    for metrics in (one, two):
        metrics.opens.add("acme", "none", "dub", "new")
        metrics.shed.inc(2)
        metrics.open_seconds.observe(0.3)
        metrics.in_flight.set(3)
        metrics.outbox_oldest_seconds.set(60)
    two.breaker_open.labels("/events").set(1)
    one.breaker_open.labels("/events").set(0)
    there.publish(two.registry)
    found = scraped(here, one)
    labels = 'app="acme",match="none",outcome="new",source="dub"'
    assert found["firstopen_opens_total{" + labels + "}"] == 2
    assert found["firstopen_shed_total"] == 4
    assert found["firstopen_open_seconds_count"] == 2
    assert found['firstopen_open_seconds_bucket{le="0.25"}'] == 0
    assert found["firstopen_in_flight"] == 6
    assert found["firstopen_outbox_oldest_seconds"] == 60
    assert found['firstopen_breaker_open{endpoint="/events"}'] == 1
    one.outbox_oldest_seconds.set(0)
    assert scraped(here, one)["firstopen_outbox_oldest_seconds"] == 0


def test_a_successor_goes_on_counting(tmp_path: Path) -> None:
    """What a worker had written down before it died is in the counts of the next one of its number."""
    before = Metrics()
    before.shed.inc(5)
    before.in_flight.set(9)
    Peers(tmp_path, 1).publish(before.registry)
    after = Metrics()
    after.shed.inc()
    successor = Peers(tmp_path, 1)
    successor.publish(after.registry)
    assert scraped(successor, after)["firstopen_shed_total"] == 6
    assert scraped(successor, after)["firstopen_in_flight"] == 0
    assert scraped(Peers(tmp_path, 2), Metrics())["firstopen_shed_total"] == 6


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """A damaged file costs that worker's numbers, not the scrape."""
    (tmp_path / "2.metrics").write_bytes(b"no metrics")
    metrics = Metrics()
    metrics.shed.inc()
    assert scraped(Peers(tmp_path, 1), metrics)["firstopen_shed_total"] == 1
