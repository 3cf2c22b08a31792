"""`GET /metrics`: what happened, under the names that docs/metrics.md lists."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from tests.integration.world import AS_SERVER
from tests.support import ANNA, BEN, FB_PROMO, FakeClock, FakeDub, Service

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


async def scraped(service: Service) -> dict[str, float]:
    text = (await service.get("/metrics")).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_opens_are_counted_by_what_became_of_them(
    service: Service, dub: FakeDub, clock: FakeClock
) -> None:
    """New, repeated and pending opens are told apart, and calls to Dub are timed."""

    async def away(_: httpx.Request) -> httpx.Response:
        clock.advance(0.2)
        return httpx.Response(500)

    await service.open(FB_PROMO, install_id=ANNA)
    await service.open(FB_PROMO, install_id=ANNA)
    dub.script = away
    await service.open(FB_PROMO, install_id=BEN)
    found = await scraped(service)
    while not found['firstopen_outbox_entries{kind="open"}']:  # it is written behind
        await asyncio.sleep(0.01)
        found = await scraped(service)
    labels = 'app="acme",match="deep_link",outcome="{}",source="{}"'
    assert found["firstopen_opens_total{" + labels.format("new", "dub") + "}"] == 1
    assert found["firstopen_opens_total{" + labels.format("repeat", "dub") + "}"] == 1
    assert found["firstopen_opens_total{" + labels.format("pending", "stale") + "}"] == 1
    assert found['firstopen_dub_seconds_count{endpoint="/track/open"}'] == 2
    assert found['firstopen_cache_total{result="hit",tier="memory"}'] == 1
    assert found['firstopen_outbox_entries{kind="open"}'] == 1
    assert found["firstopen_open_seconds_count"] == 3
    answered = '{method="POST",route="/v1/opens",status_class="2xx"}'
    assert found[f"firstopen_request_seconds_count{answered}"] == 3
    assert found[f"firstopen_request_seconds_sum{answered}"] == pytest.approx(0.2)


async def test_an_open_breaker_shows(service: Service, dub: FakeDub) -> None:
    """Metrics and readiness name the endpoint that is held back; opens are answered all the same."""

    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    dub.script = away
    for number in range(20):
        assert (await service.open(f"{FB_PROMO}-{number}", install_id=ANNA)).pending
    assert dub.calls("/track/open") == 10
    assert (await scraped(service))['firstopen_breaker_open{endpoint="/track/open"}'] == 1
    assert (
        "Dub's /track/open: circuit breaker open" in (await service.get("/health/ready")).json()["degraded"]
    )


async def test_every_response_is_counted_by_route_and_status(service: Service) -> None:
    """Refusals are counted like answers; what callers make up (ids, paths) is no label."""
    opened = await service.open(FB_PROMO, install_id=ANNA)
    await service.recall(opened.open_id)
    await service.report({"deepLink": FB_PROMO}, Authorization="")
    await service.report(b"{")
    await service.post("/track/open", json={})
    await service.get("/nowhere/0123")
    await service.delete("/v1/opens")
    found = await scraped(service)
    counts = {
        name.removeprefix("firstopen_requests_total"): count
        for name, count in found.items()
        if name.startswith("firstopen_requests_total")
    }
    assert counts == {
        '{route="/v1/opens",status="200"}': 1,
        '{route="/v1/opens/{openId}",status="200"}': 1,
        '{route="/v1/opens",status="401"}': 1,
        '{route="/v1/opens",status="400"}': 1,
        '{route="/track/open",status="422"}': 1,
        '{route="unrouted",status="404"}': 1,
        '{route="unrouted",status="405"}': 1,
    }


async def test_requests_are_timed_by_route_method_and_class(
    service: Service, dub: FakeDub, clock: FakeClock
) -> None:
    """A route's methods are told apart, and refusals from answers; what callers make up is no label."""

    async def slow(_: httpx.Request) -> httpx.Response:
        clock.advance(0.3)
        return httpx.Response(404)

    dub.script = slow
    opened = await service.open(FB_PROMO, install_id=ANNA)
    dub.script = None
    await service.post("/track/open", json={"deepLink": FB_PROMO})
    await service.recall(opened.open_id)
    await service.report({"deepLink": FB_PROMO}, Authorization="")
    await service.get("/v1/opens", headers=AS_SERVER)
    await service.request("OPTIONS", "/v1/opens")
    found = await scraped(service)
    counted = {
        tuple(re.findall(r'"([^"]+)"', name)): count
        for name, count in found.items()
        if name.startswith("firstopen_request_seconds_count") and count
    }
    assert counted == {
        ("POST", "/v1/opens", "2xx"): 1,
        ("POST", "/v1/opens", "4xx"): 1,
        ("GET", "/v1/opens", "2xx"): 1,
        ("POST", "/track/open", "2xx"): 1,
        ("GET", "/v1/opens/{openId}", "2xx"): 1,
        ("OPTIONS", "/v1/opens", "2xx"): 1,
    }
    series = 'firstopen_request_seconds_bucket{{le="{}",method="POST",route="/v1/opens",status_class="2xx"}}'
    assert [found[series.format(bound)] for bound in ("0.25", "0.5", "+Inf")] == [0, 1, 1]
    assert found["firstopen_open_seconds_count"] == 2  # of 0.2.0: both ways to report an open
    assert found['firstopen_open_seconds_bucket{le="0.25"}'] == 1


async def test_the_page_lists_every_metric(service: Service) -> None:
    """What an operator reads about is what there is, no more and no less."""
    text = (await service.get("/metrics")).text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    ours = {name for name in names if not name.startswith("process_")}
    assert names - ours >= {"process_cpu_seconds_total", "process_resident_memory_bytes"}
    listed = set(re.findall(r"^\| `(firstopen_\w+)`", PAGE.read_text(), re.MULTILINE))
    assert ours == listed
