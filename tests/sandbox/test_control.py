"""`/sandbox/*`: the clock, the calls, the settings."""

import hashlib
from typing import Any

import pytest

from tests.sandbox.support import OKHTTP, PROMO, FakeClock, Sandbox, error_of


async def test_clock_advances_and_ticks_on(sandbox: Sandbox, clock: FakeClock) -> None:
    """`advanceS` lets time pass for everything, and time goes on from there."""
    first = await sandbox.open()
    moved = await sandbox.http.post("/sandbox/clock", json={"advanceS": 3_600})
    assert moved.json()["now"] == "2026-08-01T13:00:00.000Z"
    assert (await sandbox.open())["clickId"] != first["clickId"]
    clock.advance(1.5)
    assert (await sandbox.http.get("/sandbox/clock")).json()["now"] == "2026-08-01T13:00:01.500Z"


@pytest.mark.parametrize("now", [1_785_888_000, "2026-08-05T00:00:00Z", "2026-08-05T02:00:00+02:00"])
async def test_clock_can_be_set(sandbox: Sandbox, now: Any) -> None:
    """`now` is Unix seconds or ISO 8601; DELETE returns to the machine's time."""
    assert (await sandbox.http.post("/sandbox/clock", json={"now": now})).json()[
        "now"
    ] == "2026-08-05T00:00:00.000Z"
    assert (await sandbox.http.delete("/sandbox/clock")).json()["now"] == "2026-08-01T12:00:00.000Z"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sandbox/clock", {}),
        ("/sandbox/clock", {"advanceS": 1, "now": 1}),
        ("/sandbox/clock", {"advance": 1}),
        ("/sandbox/clock", {"now": "2026-08-05T00:00:00"}),
        ("/sandbox/clock", {"now": "tomorrow"}),
        ("/sandbox/clock", {"now": 1e300}),
        ("/sandbox/clock", {"advanceS": -1e13}),
    ],
)
async def test_clock_refuses(sandbox: Sandbox, path: str, body: dict[str, Any]) -> None:
    """A move that is no move, or leads nowhere, is a 422 and leaves the clock alone."""
    assert error_of(await sandbox.http.post(path, json=body))[0] == 422
    assert (await sandbox.http.get("/sandbox/clock")).json()["now"] == "2026-08-01T12:00:00.000Z"


async def test_calls_are_read_back(sandbox: Sandbox) -> None:
    """Every call is listed as it came in, clicks too, with its answer's status and no secret."""
    await sandbox.post(
        "/track/open", {"deepLink": PROMO}, key="dub_secret", user_agent=OKHTTP, cookie="a=secret"
    )
    await sandbox.click("/plain?x=1")
    opened, clicked = await sandbox.calls()
    assert (opened["method"], opened["host"], opened["path"], opened["status"]) == (
        "POST",
        "127.0.0.1",
        "/track/open",
        200,
    )
    assert (opened["body"], opened["at"]) == ({"deepLink": PROMO}, "2026-08-01T12:00:00.000Z")
    assert opened["headers"]["user-agent"] == OKHTTP
    assert "secret" not in str(opened)
    assert opened["keySha256"] == hashlib.sha256(b"dub_secret").hexdigest()[:12]
    assert (clicked["host"], clicked["path"], clicked["query"]) == ("acme.link", "/plain", "x=1")
    assert (clicked["status"], clicked["keySha256"], clicked["body"]) == (302, None, None)


async def test_calls_are_filtered_and_cleared(sandbox: Sandbox) -> None:
    """`path` and `method` choose, DELETE forgets, and control calls are never listed."""
    await sandbox.open()
    await sandbox.ask_events()
    assert [call["path"] for call in await sandbox.calls(path="/events")] == ["/events"]
    assert [call["path"] for call in await sandbox.calls(method="post")] == ["/track/open"]
    assert (await sandbox.http.delete("/sandbox/calls")).json() == {"cleared": 2}
    assert await sandbox.calls() == []


async def test_body_that_is_no_json_is_shown_as_text(sandbox: Sandbox) -> None:
    """What could not be parsed can still be read."""
    await sandbox.post("/track/open", b"{nonsense\xff")
    (call,) = await sandbox.calls()
    assert call["body"] == "{nonsense\N{REPLACEMENT CHARACTER}"


async def test_settings_are_shown_and_checked(sandbox: Sandbox) -> None:
    """Settings read back what was set; a wrong or unknown one is a 422 that changes nothing."""
    await sandbox.settings(eventsDelayS=2.5)
    for bad in (
        {"plan": "gold"},
        {"usageExceeded": 1},
        {"eventsDelayS": -1},
        {"delay": 1},
        {"plan": "pro", "leadLookupDelayS": "3"},
    ):
        assert error_of(await sandbox.http.patch("/sandbox/settings", json=bad))[0] == 422
    assert (await sandbox.http.get("/sandbox/settings")).json() == {
        "plan": None,
        "usageExceeded": False,
        "firstOpensUnfound": False,
        "eventsDelayS": 2.5,
        "leadLookupDelayS": 0.0,
        "allowedHostnames": [],
    }


async def test_control_has_no_cors(sandbox: Sandbox) -> None:
    """A web page's script cannot read what apps sent."""
    response = await sandbox.http.get("/sandbox/calls", headers={"origin": "https://evil.com"})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/sandbox/nowhere", "/nowhere"])
async def test_unknown_route(sandbox: Sandbox, path: str) -> None:
    """An unknown route is a 404 in Dub's shape."""
    assert error_of(await sandbox.http.get(path))[:2] == (404, "not_found")
