"""Links that Dub answers badly: each costs its own open, and nobody else's.

Whoever holds an app's publishable key can report opens of links that Dub answers quickly but badly.
"""

from collections.abc import Callable

import httpx
import pytest

from service.attribution.open_replay import TRIES, backoff_s
from tests.support import ANNA, FB_PROMO, FakeClock, FakeDub, Handler, LogLines, Service, until

LONG_KEY = "bad" + "x" * 11_000

ANSWERS: dict[str, Callable[[httpx.Request], httpx.Response]] = {
    "a redirect": lambda _: httpx.Response(302, headers={"Location": "https://example.com"}),
    "a failure": lambda _: httpx.Response(500, json={"error": {"code": "internal_server_error"}}),
    "a page": lambda _: httpx.Response(200, text="<html>"),
    "a 404 that is not Dub's": lambda _: httpx.Response(404, text="<html>"),
    "a refusal": lambda _: httpx.Response(403, json={"error": {"code": "forbidden", "message": "no"}}),
}


def bad(dub: FakeDub, answer: Callable[[httpx.Request], httpx.Response]) -> Handler:
    """Answer links whose key begins with ``bad`` in this way, and others well."""

    async def script(request: httpx.Request) -> httpx.Response:
        return answer(request) if b"/bad" in request.content else dub._track_open(request)

    return script


@pytest.mark.parametrize("name", ANSWERS)
async def test_bad_answers_open_no_breaker(service: Service, dub: FakeDub, name: str) -> None:
    """After fifteen opens of links that Dub answers badly, a good link is still asked about."""
    dub.script = bad(dub, ANSWERS[name])
    for number in range(15):
        opened = await service.open(f"https://acme.link/bad{number}", install_id=f"install-{number:04}")
        assert opened.source == "parsed"
    assert (await service.open(FB_PROMO, install_id=ANNA)).source == "dub"
    ready = await service.get("/health/ready")
    assert "breaker" not in ready.text


async def test_a_404_with_a_long_message_is_a_404(service: Service, dub: FakeDub) -> None:
    """Dub's 404 repeats the link, however long it is (dub-api.md, POST /track/open)."""

    async def script(request: httpx.Request) -> httpx.Response:
        message = f"Deep link not found: {request.content.decode()}"
        return httpx.Response(404, json={"error": {"code": "not_found", "message": message, "doc_url": "x"}})

    dub.script = script
    opened = await service.open(f"https://acme.link/{LONG_KEY}", install_id=ANNA)
    assert (opened.pending, opened.source, opened.match.type) == (False, "dub", "none")


async def test_a_failing_link_is_left_alone(service: Service, dub: FakeDub, clock: FakeClock) -> None:
    """After two bad answers in a row a link is not asked about for ten seconds; other links are."""
    dub.script = bad(dub, ANSWERS["a failure"])
    for number in range(10):
        await service.open("https://acme.link/bad", install_id=f"install-{number:04}")
    asked = sum(b"/bad" in request.content for request in dub.requests)
    assert asked == 2
    assert (await service.open(FB_PROMO, install_id=ANNA)).source == "dub"
    clock.advance(11)
    dub.script = None
    dub.links["acme.link/bad"] = "https://acme.com/product/1"
    assert (await service.open("https://acme.link/bad", install_id="install-late")).source == "dub"


@pytest.mark.parametrize(("name", "tries"), [("a redirect", 1), ("a refusal", 1), ("a failure", TRIES)])
async def test_what_dub_answers_badly_becomes_a_dead_letter(
    service: Service, dub: FakeDub, clock: FakeClock, logs: LogLines, name: str, tries: int
) -> None:
    """A status that says no ends it at once, another one after six tries, within a minute."""
    dub.script = bad(dub, ANSWERS[name])
    await service.open("https://acme.link/bad", install_id=ANNA)
    clock.advance(0.5)
    await service.open(FB_PROMO, install_id=ANNA)  # Dub answers others well, after that open

    def is_dead() -> bool:
        clock.advance(0.2)
        return bool(logs.events("outbox.dead"))

    await until(is_dead)
    (entry,) = logs.events("outbox.dead")
    assert entry["kind"] == "open"
    asked = sum(b"/bad" in request.content for request in dub.requests)
    assert asked <= tries + 1  # the live call, and the tries that found the link not left alone


def test_six_tries_are_over_within_a_minute() -> None:
    assert sum(backoff_s(attempt) for attempt in range(TRIES - 1)) < 60


async def test_in_an_outage_no_try_counts(
    service: Service, dub: FakeDub, clock: FakeClock, logs: LogLines
) -> None:
    """While Dub answers every open badly, opens stay queued: nothing says that the link is at fault."""

    async def down(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    dub.script = down
    first = await service.open(FB_PROMO, install_id=ANNA)

    def many_times() -> bool:
        clock.advance(5)
        return dub.calls("/track/open") > 2 * TRIES

    await until(many_times)
    dub.script = None
    clock.advance(301)
    await until(lambda: logs.events("open.replayed"))
    assert logs.events("outbox.dead") == []
    assert (await service.recall(first.open_id)).click_id
