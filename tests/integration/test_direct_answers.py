"""A report of an open is answered alike with and without Litestar's routing.

Litestar's route answers what is not sent in the usual way, such as with a slash behind the path.
"""

from collections.abc import AsyncIterator

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from tests.support import ANNA, CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, Service, running

DIRECT, ROUTED = "/v1/opens", "/v1/opens/"

GOOD = b'{"deepLink": "%b", "installId": "%b"}' % (FB_PROMO.encode(), ANNA.encode())


@pytest.fixture
async def limited(dub: FakeDub, clock: FakeClock) -> AsyncIterator[Service]:
    limits = '\n[limits]\nper_key = "6/minute"\n'
    app = create_app(parse(CONFIG + limits, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    async with running(app) as service:
        yield service


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (GOOD, {}, 200),
        (b'{"deepLink": 7, "installId": "%b"}' % ANNA.encode(), {}, 200),
        (b'{"installId": "\\ud800 half of an emoji"}', {}, 200),
        (b"{", {}, 400),
        (b"", {}, 400),
        (GOOD, {"Host": "a b"}, 400),
        (GOOD, {"Host": "[::1]:8000"}, 200),
        (GOOD, {"Authorization": ""}, 401),
        (GOOD, {"Authorization": "Bearer dub_pk_nobody"}, 401),
        (GOOD, {"Authorization": "Bearer server-key-of-acme"}, 403),
        (b'{"dubDomain": "globex.link"}', {}, 403),
        (b" " * 70_000, {}, 413),
        (GOOD, {"Content-Type": "text/plain"}, 415),
    ],
)
async def test_both_ways_answer_alike(
    limited: Service, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Status, headers and body are the same, and so is what counts against the rate limit."""
    replies = [await _report(limited, path, body, headers) for path in (DIRECT, ROUTED, DIRECT, ROUTED)]
    assert [reply.status_code for reply in replies] == [status] * 4
    first, routed, again, routed_again = map(_seen, replies)
    assert again == routed_again
    if status == 200:
        assert again["repeat"] is True
    else:
        assert first == routed
        remaining = [reply.headers.get("ratelimit-remaining") for reply in replies]
        assert remaining in ([None] * 4, ["5", "4", "3", "2"])


async def test_both_ways_count_alike(service: Service) -> None:
    """Each answer is counted once, under the route's template."""
    for path in (DIRECT, ROUTED):
        await _report(service, path, GOOD, {})
        await _report(service, path, b"{", {})
    metrics = (await service.get("/metrics")).text
    assert 'firstopen_requests_total{route="/v1/opens",status="200"} 2.0' in metrics
    assert 'firstopen_requests_total{route="/v1/opens",status="400"} 2.0' in metrics
    for kind in ("2xx", "4xx"):
        labels = f'method="POST",route="/v1/opens",status_class="{kind}"'
        assert f"firstopen_request_seconds_count{{{labels}}} 2.0" in metrics


async def _report(service: Service, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return await service.post(path, content=body, headers={"Content-Type": "application/json", **headers})


def _seen(reply: httpx.Response) -> dict[str, object]:
    """Return an answer and its headers, without the count of requests left."""
    headers = [each for each in reply.headers.multi_items() if each[0] != "ratelimit-remaining"]
    return {"headers": sorted(headers), **reply.json()}
