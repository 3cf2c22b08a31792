"""`POST /sandbox/faults`: what can be rehearsed without a real connection."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest

from tests.sandbox.support import NOON, PROMO, FakeSleep, Sandbox, error_of


async def opened(sandbox: Sandbox) -> httpx.Response:
    return await sandbox.post("/track/open", {"deepLink": PROMO})


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "internal_server_error"),
        (503, "internal_server_error"),
        (404, "not_found"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (409, "conflict"),
        (418, "bad_request"),
    ],
)
async def test_status(sandbox: Sandbox, status: int, code: str) -> None:
    """A status comes in Dub's error shape, with its CORS headers, and nothing is recorded."""
    await sandbox.fault(route="/track/open", status=status)
    response = await opened(sandbox)
    assert error_of(response)[:2] == (status, code)
    assert response.headers["access-control-allow-origin"] == "*"
    assert await sandbox.events() == []


async def test_empty_answer(sandbox: Sandbox) -> None:
    """A 204 has no body."""
    await sandbox.fault(route="/track/open", status=204)
    response = await opened(sandbox)
    assert (response.status_code, response.content) == (204, b"")


async def test_throttle_is_in_dubs_form(sandbox: Sandbox) -> None:
    """`throttle` is a 429 whose Retry-After is Unix milliseconds, and so is `status` 429."""
    for fault in ({"throttle": True, "retryAfterS": 5}, {"status": 429, "retryAfterS": 5}):
        fault_id = await sandbox.fault(route="/track/open", **fault)
        response = await opened(sandbox)
        assert error_of(response)[:2] == (429, "rate_limit_exceeded")
        assert response.headers["retry-after"] == str(int((NOON + 5) * 1_000))
        assert response.headers["x-ratelimit-reset"] == response.headers["retry-after"]
        await sandbox.http.delete(f"/sandbox/faults/{fault_id}")


async def test_delay(sandbox: Sandbox, sleep: FakeSleep) -> None:
    """`delayMs` waits that long and then answers as ever."""
    await sandbox.fault(route="/track/open", delayMs=1_500)
    assert (await opened(sandbox)).json()["clickId"]
    assert sleep.slept_s == [1.5]


async def test_html(sandbox: Sandbox) -> None:
    """`html` is a page where JSON was expected, with the answer's own status or with another."""
    await sandbox.fault(route="/track/open", html=True, times=1)
    await sandbox.fault(route="/track/open", html=True, status=502)
    for status in (200, 502):
        response = await opened(sandbox)
        assert response.status_code == status
        assert response.headers["content-type"].startswith("text/html")


async def test_truncated_json(sandbox: Sandbox) -> None:
    """`truncate` is a complete HTTP answer with half of its JSON."""
    await sandbox.fault(route="/track/open", truncate=True)
    response = await opened(sandbox)
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(response.content))
    with pytest.raises(ValueError, match=r"line 1 column"):
        response.json()


async def test_trickle(sandbox: Sandbox, sleep: FakeSleep) -> None:
    """`trickleMs` sends the whole answer in at most twenty pieces, with that pause before each."""
    await sandbox.fault(route="/track/open", trickleMs=50)
    assert (await opened(sandbox)).json()["clickId"]
    assert 1 < len(sleep.slept_s) <= 20
    assert set(sleep.slept_s) == {0.05}


@pytest.mark.parametrize("reset", ["before", "midBody"])
async def test_reset_without_a_connection(sandbox: Sandbox, reset: str) -> None:
    """Under an in-process client, which has no connection to drop, a reset is a ConnectionResetError."""
    await sandbox.fault(route="/track/open", reset=reset)
    with pytest.raises(ConnectionResetError):
        await opened(sandbox)


@pytest.mark.parametrize("fault", [{"status": 503}, {"reset": "before"}, {"throttle": True}])
async def test_handled_loses_only_the_answer(sandbox: Sandbox, fault: dict[str, Any]) -> None:
    """With `handled` the work is done and the answer lost: a retry gets the click that was recorded."""
    await sandbox.fault(route="/track/open", handled=True, times=1, **fault)
    with contextlib.suppress(ConnectionResetError):
        assert (await opened(sandbox)).status_code in {429, 503}
    (event,) = await sandbox.events()
    assert (await opened(sandbox)).json()["clickId"] == event["click"]["id"]


async def test_handled_lead_is_burned(sandbox: Sandbox) -> None:
    """A lead whose answer was lost is recorded once, and its retry says so with a null link."""
    click_id = (await sandbox.open())["clickId"]
    await sandbox.fault(route="/track/lead", status=500, handled=True, times=1)
    assert (await sandbox.lead(click_id)).status_code == 500
    assert (await sandbox.lead(click_id)).json()["link"] is None
    assert len(await sandbox.events("leads")) == 1


async def test_stall_ends_with_its_fault(sandbox: Sandbox, sleep: FakeSleep) -> None:
    """A stalled call is answered, and only then takes effect, when its fault is deleted."""
    fault_id = await sandbox.fault(route="/track/open", stall=True, delayMs=1)
    async with asyncio.TaskGroup() as group:
        stalled = group.create_task(opened(sandbox))
        await sleep.called.wait()
        (call,) = await sandbox.calls(path="/track/open")
        assert (call["status"], call["fault"]) == (None, fault_id)
        assert await sandbox.events() == []
        await sandbox.http.delete(f"/sandbox/faults/{fault_id}")
    assert stalled.result().json()["clickId"]


async def test_times(sandbox: Sandbox) -> None:
    """A fault takes as many calls as it says, and shows how many it took."""
    await sandbox.fault(route="/track/open", status=503, times=2)
    assert [(await opened(sandbox)).status_code for _ in range(4)] == [503, 503, 200, 200]
    (listed,) = (await sandbox.http.get("/sandbox/faults")).json()
    assert listed["applied"] == 2


async def test_probability_can_be_repeated(sandbox: Sandbox) -> None:
    """The same seed fails the same calls; another seed fails others; the share is about right."""

    async def run(seed: int) -> list[int]:
        fault_id = await sandbox.fault(route="/track/open", status=503, probability=0.3, seed=seed)
        statuses = [(await opened(sandbox)).status_code for _ in range(200)]
        await sandbox.http.delete(f"/sandbox/faults/{fault_id}")
        return statuses

    first = await run(7)
    assert await run(7) == first
    assert await run(8) != first
    assert 40 <= first.count(503) <= 80


@pytest.mark.parametrize(("probability", "status"), [(0, 200), (1, 503)])
async def test_probability_at_its_ends(sandbox: Sandbox, probability: int, status: int) -> None:
    """0 is never, 1 is always."""
    await sandbox.fault(route="*", status=503, probability=probability)
    assert {(await opened(sandbox)).status_code for _ in range(50)} == {status}


@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        ({"route": "*"}, {"open", "lead", "events", "click"}),
        ({"route": "/track/*"}, {"open", "lead"}),
        ({"route": "/track/open"}, {"open"}),
        ({"route": "*", "method": "get"}, {"events", "click"}),
        ({"route": "*", "host": "acme.link"}, {"click"}),
        ({"route": "/fb-promo"}, {"click"}),
        ({"route": "/track"}, set()),
    ],
)
async def test_whom_a_fault_takes(sandbox: Sandbox, fault: dict[str, str], hit: set[str]) -> None:
    """A fault takes the calls whose path, method and host fit its globs, and no others."""
    await sandbox.fault(status=503, **fault)
    statuses = {
        "open": (await opened(sandbox)).status_code,
        "lead": (await sandbox.lead("x")).status_code,
        "events": (await sandbox.ask_events()).status_code,
        "click": (await sandbox.click()).status_code,
    }
    assert {name for name, status in statuses.items() if status == 503} == hit


async def test_first_fault_that_fits_takes_the_call(sandbox: Sandbox) -> None:
    """Faults are asked in the order in which they were set; a spent one lets the next take over."""
    await sandbox.fault(route="*", status=500, times=1)
    await sandbox.fault(route="/track/open", status=503, times=1)
    assert [(await opened(sandbox)).status_code for _ in range(3)] == [500, 503, 200]


async def test_control_is_never_hit(sandbox: Sandbox) -> None:
    """A fault on everything can always be listed and taken away."""
    await sandbox.fault(route="*", stall=True)
    assert len((await sandbox.http.get("/sandbox/faults")).json()) == 1
    assert (await sandbox.http.delete("/sandbox/faults")).json() == {"cleared": 1}
    assert (await opened(sandbox)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({}, "route"),
        ({"route": ""}, "route"),
        ({"route": "*"}, "a fault with an effect"),
        ({"route": "*", "handled": True}, "a fault with an effect"),
        ({"route": "*", "status": 503, "stall": True}, "status and stall"),
        ({"route": "*", "throttle": True, "reset": "before"}, "throttle"),
        ({"route": "*", "status": 99}, "status"),
        ({"route": "*", "status": 600}, "status"),
        ({"route": "*", "status": "503"}, "status"),
        ({"route": "*", "delayMs": -1}, "delayMs"),
        ({"route": "*", "delayMs": 600_001}, "delayMs"),
        ({"route": "*", "reset": "later"}, "reset"),
        ({"route": "*", "trickleMs": 0}, "trickleMs"),
        ({"route": "*", "status": 503, "probability": 1.1}, "probability"),
        ({"route": "*", "status": 503, "times": 0}, "times"),
        ({"route": "*", "status": 503, "retryAfterS": -1}, "retryAfterS"),
        ({"route": "*", "statuss": 503}, "statuss"),
        ({"route": "*", "delay": 5}, "delay"),
    ],
)
async def test_what_is_no_fault(sandbox: Sandbox, fault: dict[str, Any], word: str) -> None:
    """A fault that is misspelt, out of bounds, contradictory or empty is a 422 that says what is wrong."""
    status, code, message = error_of(await sandbox.http.post("/sandbox/faults", json=fault))
    assert (status, code) == (422, "unprocessable_entity")
    assert word in message
    assert (await sandbox.http.get("/sandbox/faults")).json() == []


async def test_unknown_fault_cannot_be_deleted(sandbox: Sandbox) -> None:
    """Deleting a fault that is not there is a 404."""
    assert error_of(await sandbox.http.delete("/sandbox/faults/fault_9"))[0] == 404
