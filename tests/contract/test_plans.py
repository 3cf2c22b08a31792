"""How often one may ask, by plan, and what every refusal looks like."""

import math
import time
from collections.abc import Awaitable

import httpx
import pytest

from tests.contract.targets import CONVERSIONS, KEYED, Target, error_of
from tests.sandbox.support import FakeClock

DOCS = "https://dub.co/docs/api-reference/errors#"


@pytest.mark.parametrize("plan", ["free", "pro"])
@pytest.mark.parametrize("path", KEYED)
async def test_a_lower_plan(target: Target, path: str, plan: str) -> None:
    """Below Business leads, sales and events are a 403; opens are answered."""
    await target.at_dub("PATCH", "/sandbox/settings", {"plan": plan})
    assert error_of(await target.ask_rightly(path)) == (403, "forbidden")
    assert (await target.open())["clickId"]


async def is_throttled(target: Target, asked: Awaitable[httpx.Response], over_s: float) -> None:
    """Fail unless this is a 429 that says, in this target's form, that it is over at this moment."""
    before = time.time()
    response = await asked
    after = time.time()
    assert error_of(response) == (429, "rate_limit_exceeded")
    value = response.headers["retry-after"]
    if target.expects("Retry-After") == "Unix milliseconds":
        assert value == str(round(over_s * 1_000))
    else:
        assert max(1, math.ceil(over_s - after)) <= int(value) <= max(1, math.ceil(over_s - before))


@pytest.fixture
def now_s(clock: FakeClock) -> float:
    """Make it the real time for everybody: the service tells seconds from Dub's moment by the machine's."""
    clock.now_s = float(math.floor(time.time()))
    return clock.now_s


@pytest.mark.parametrize(("plan", "per_s"), [("business", 4), ("advanced", 8), ("enterprise", 16)])
async def test_events_per_second(
    now_s: float, target: Target, clock: FakeClock, plan: str, per_s: int
) -> None:
    """So many lists a second, by plan; the next is a 429 that says when to come back."""
    await target.at_dub("PATCH", "/sandbox/settings", {"plan": plan})
    for page in range(1, per_s + 1):
        assert (await target.ask_events(page=page)).status_code == 200
    await is_throttled(target, target.ask_events(page=99), now_s + 1)
    clock.advance(1)
    assert (await target.ask_events()).status_code == 200


async def test_leads_of_an_app_per_minute(now_s: float, target: Target, clock: FakeClock) -> None:
    """600 leads a minute and key from apps; the next is a 429, and a minute later they count again."""
    await target.at_dub("PATCH", "/sandbox/settings", {"plan": "business"})
    click_id = await target.click_id()
    lead = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": "user_1"}
    for _ in range(600):
        assert (await target.post("/track/lead/client", lead)).status_code == 200
    over_s = (now_s // 60 + 1) * 60
    await is_throttled(target, target.post("/track/lead/client", lead), over_s)
    clock.advance(60)
    assert (await target.post("/track/lead/client", lead)).status_code == 200


@pytest.mark.parametrize("path", CONVERSIONS)
async def test_dubs_own_429(now_s: float, target: Target, path: str) -> None:
    """When Dub throttles, the caller is told so, and until when, on every route."""
    route = path.removesuffix("/client") + "*"
    await target.at_dub("POST", "/sandbox/faults", {"route": route, "throttle": True, "retryAfterS": 90})
    await is_throttled(target, target.ask_rightly(path), now_s + 90)


@pytest.mark.parametrize(
    ("code", "status", "anchor"),
    [
        ("bad_request", 400, "bad-request"),
        ("unauthorized", 401, "unauthorized"),
        ("forbidden", 403, "forbidden"),
        ("not_found", 404, "not-found"),
        ("method_not_allowed", 405, "method-not_allowed"),
        ("unprocessable_entity", 422, "unprocessable-entity"),
        ("rate_limit_exceeded", 429, "rate-limit_exceeded"),
    ],
)
async def test_every_errors_page(target: Target, code: str, status: int, anchor: str) -> None:
    """An error has a code, a message for people, and its page: the code with its first `_` as `-`."""
    if status in {403, 429}:
        plan = {403: "pro", 429: "business"}[status]
        await target.at_dub("PATCH", "/sandbox/settings", {"plan": plan})
    asked = {
        "bad_request": ("POST", "/track/lead", b"{"),
        "unauthorized": ("GET", "/events", None),
        "forbidden": ("GET", "/events", None),
        "not_found": ("POST", "/track/open", {"deepLink": "https://acme.link/unknown"}),
        "method_not_allowed": ("PUT", "/track/open", {}),
        "unprocessable_entity": ("POST", "/track/open", {}),
        "rate_limit_exceeded": ("GET", "/events", None),
    }
    method, path, body = asked[code]
    key = None if status == 401 else ""
    for _ in range(4 if status == 429 else 0):
        await target.ask_events()
    response = await target.ask(method, path, key=key, body=body)
    assert error_of(response) == (status, code)
    assert response.json()["error"]["message"]
    assert response.json()["error"]["doc_url"] == DOCS + anchor
    assert set(response.json()["error"]) == {"code", "message", "doc_url"}
