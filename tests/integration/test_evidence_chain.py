"""What an open has to go by, strongest first, over HTTP."""

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support import ANNA, BEN, FB_PROMO, SERVER_KEY, FakeClock, FakeDub, LogLines, Service

REFERRER = f"utm_source=x&deepLink={quote(FB_PROMO, safe='')}&utm_medium=y"
LETTER = "Dear Anna, the code is 4711. See https://private.example/diary"
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}


async def trace_of(service: Service, open_id: str) -> dict[str, Any]:
    reply = await service.get(f"/v1/opens/{open_id}/trace", headers=AS_SERVER)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def said(trace: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["type"], item["outcome"]) for item in trace["evidence"]]


@pytest.mark.parametrize(
    "referrer",
    [
        REFERRER,
        quote(REFERRER, safe=""),
        quote(quote(REFERRER, safe=""), safe=""),
        f"https://play.google.com/store/apps/details?id=com.acme&referrer={quote(REFERRER, safe='')}",
        f"deepLink={quote(quote(FB_PROMO, safe=''), safe='')}",
        "deepLink=acme.link/fb-promo",
    ],
)
async def test_a_raw_referrer_is_read_however_it_is_encoded(service: Service, referrer: str) -> None:
    """The Play Install Referrer's string is taken as it comes, and its link is certain."""
    answer = await service.open(install_referrer=referrer, install_id=ANNA)
    assert (answer.match.type, answer.match.guaranteed) == ("install_referrer", True)
    assert answer.click_id
    assert (answer.route.screen, answer.route.params) == ("product", {"id": "123"})


@pytest.mark.parametrize("clipboard", [FB_PROMO, f" {FB_PROMO}?a=b\n", "http://www.ACME.link/fb-promo"])
async def test_a_clipboard_with_a_link_of_ours_is_certain(service: Service, clipboard: str) -> None:
    """Dub's store page copies the short link; it is found again."""
    answer = await service.open(clipboard=clipboard, install_id=ANNA)
    assert (answer.match.type, answer.match.guaranteed) == ("clipboard", True)
    assert answer.click_id


@pytest.mark.parametrize(
    "clipboard", [LETTER, "https://private.example/diary", "", "   ", "4711", "anna@acme.link", "*"]
)
async def test_a_clipboard_that_is_not_ours_is_nobodys_business(
    service: Service, dub: FakeDub, logs: LogLines, clipboard: str
) -> None:
    """It is not sent, not logged, not kept, and no error."""
    answer = await service.open(clipboard=clipboard, install_id=ANNA)
    assert (answer.match.type, answer.click_id, answer.route.reason) == ("none", None, "default")
    assert dub.calls("/track/open") == 0
    trace = await trace_of(service, answer.open_id)
    for secret in filter(str.strip, {clipboard, "4711", "private.example"} - {"*"}):
        assert secret not in logs.text
        assert secret not in str(trace)


async def test_the_strongest_evidence_that_resolves_wins(service: Service, dub: FakeDub) -> None:
    """A deep link before a referrer before a clipboard; one call is enough where the first resolves."""
    everything: Any = {
        "install_referrer": REFERRER,
        "clipboard": "https://acme.link/summer",
        "install_id": ANNA,
    }
    answer = await service.open("https://go.acme.com/fb-promo", **everything)
    assert (answer.match.type, answer.route.params) == ("deep_link", {"id": "55"})
    assert dub.calls("/track/open") == 1


async def test_an_unknown_deep_link_falls_through_to_the_next(service: Service, dub: FakeDub) -> None:
    """Each rung's outcome is in the trace, in order."""
    answer = await service.open(
        "https://acme.link/nobody", install_referrer=REFERRER, clipboard=LETTER, install_id=ANNA
    )
    assert answer.match.type == "install_referrer"
    assert dub.calls("/track/open") == 2
    trace = await trace_of(service, answer.open_id)
    assert ("clipboard", "skipped") in said(trace)
    assert [each for each in said(trace) if each[1] != "skipped"] == [
        ("deep_link", "unknown"),
        ("install_referrer", "resolved"),
    ]
    assert trace["answer"]["clickId"] == answer.click_id


async def test_a_referrer_counts_once_per_install(service: Service, dub: FakeDub, clock: FakeClock) -> None:
    """Reported at every start, also a day later, the referrer is the same open and the same click."""
    first = await service.open(install_referrer=REFERRER, install_id=ANNA)
    clock.advance(86_400)
    again = await service.open(install_referrer=REFERRER, install_id=ANNA)
    assert (again.open_id, again.click_id, again.repeat) == (first.open_id, first.click_id, True)
    assert dub.calls("/track/open") == 1
    assert (await service.open(install_referrer=REFERRER, install_id=BEN)).click_id != first.click_id


async def test_a_deep_link_counts_every_time(service: Service, dub: FakeDub, clock: FakeClock) -> None:
    """After the hour for which an answer is repeated, the same link is a new open."""
    first = await service.open(FB_PROMO, install_id=ANNA)
    clock.advance(3601)
    again = await service.open(FB_PROMO, install_id=ANNA)
    assert again.open_id != first.open_id
    assert not again.repeat
    assert dub.calls("/track/open") == 2


async def test_stronger_evidence_is_never_a_repeat(service: Service, dub: FakeDub) -> None:
    """A referrer that arrives after a linkless open replaces its "none"."""
    none = await service.open(dub_domain="acme.link", install_id=ANNA)
    assert (none.match.type, none.click_id) == ("none", None)
    late = await service.open(install_referrer=REFERRER, install_id=ANNA)
    assert (late.match.type, late.repeat) == ("install_referrer", False)
    assert late.click_id
    assert dub.calls("/track/open") == 1


async def test_an_unavailable_dub_does_not_fall_through(service: Service, dub: FakeDub) -> None:
    """Weaker evidence is not taken because Dub cannot speak about the stronger."""

    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    dub.script = away
    answer = await service.open(FB_PROMO, clipboard="https://acme.link/summer", install_id=ANNA)
    assert (answer.source, answer.pending, answer.route.screen) == ("parsed", True, "promo")
    assert dub.calls("/track/open") == 1
    assert said(await trace_of(service, answer.open_id))[-1] == ("deep_link", "unavailable")


async def test_a_clipboard_link_waits_sealed_for_dub(
    service: Service, dub: FakeDub, clock: FakeClock
) -> None:
    """Owed to Dub, an open by clipboard is reported as what it was."""

    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    dub.script = away
    pending = await service.open(clipboard=FB_PROMO, install_id=ANNA)
    assert pending.pending
    dub.script = None
    for _ in range(200):
        clock.advance(1)
        found = await service.recall(pending.open_id)
        if found.click_id:
            break
        await asyncio.sleep(0.02)
    assert (found.match.type, found.pending) == ("clipboard", False)


async def test_a_dry_run_changes_nothing(service: Service, dub: FakeDub) -> None:
    """It asks Dub without a trace, and the open itself is new afterwards."""
    body = {"installReferrer": REFERRER, "installId": ANNA, "ip": "203.0.113.7", "userAgent": "okhttp/4"}
    reply = await service.post("/v1/opens/dry-run", json=body, headers=AS_SERVER)
    assert reply.status_code == 200, reply.text
    dry = reply.json()
    assert dry["answer"]["match"]["type"] == "install_referrer"
    assert dry["answer"]["clickId"] is None
    assert dry["trace"]["evidence"][-1]["outcome"] == "resolved"
    assert [request.headers.get("dub-no-track") for request in dub.requests] == ["true"]
    assert not (await service.open(install_referrer=REFERRER, install_id=ANNA)).repeat


async def test_traces_and_dry_runs_take_a_server_key(service: Service) -> None:
    """They show how people are matched: an app's own key sees none of it."""
    opened = await service.open(FB_PROMO, install_id=ANNA)
    assert (await service.get(f"/v1/opens/{opened.open_id}/trace")).status_code == 403
    assert (await service.post("/v1/opens/dry-run", json={"deepLink": FB_PROMO})).status_code == 403
    unknown = await service.get("/v1/opens/00/trace", headers=AS_SERVER)
    assert unknown.status_code == 404
    wrong = await service.post(
        "/v1/opens/dry-run", json={"deepLink": FB_PROMO, "ip": "nowhere"}, headers=AS_SERVER
    )
    assert wrong.json()["error"]["message"].startswith("ip")
