"""How often one may ask, by plan, and what every refusal looks like."""

import httpx
import pytest

from tests.contract.targets import CONVERSIONS, KEYED, LEAD_PATHS, Target, error_of
from tests.sandbox.support import NOON, FakeClock

DOCS = "https://dub.co/docs/api-reference/errors#"


@pytest.mark.parametrize("plan", ["free", "pro"])
@pytest.mark.parametrize("path", KEYED)
async def test_a_lower_plan(target: Target, path: str, plan: str) -> None:
    """Below Business leads, sales and events are a 403; opens are answered."""
    await target.at_dub("PATCH", "/sandbox/settings", {"plan": plan})
    assert error_of(await target.ask_rightly(path)) == (403, "forbidden")
    assert (await target.open())["clickId"]


async def test_over_this_months_usage(target: Target) -> None:
    """403 also means that the month's clicks are used up (dub-api.md, GET /events), by its own code.

    Opens and leads are answered all the same.
    """
    await target.at_dub("PATCH", "/sandbox/settings", {"plan": "business", "usageExceeded": True})
    response = await target.ask_events()
    assert error_of(response) == (403, "exceeded_limit")
    assert (await target.lead(await target.click_id()))["link"]


def throttled(target: Target, response: httpx.Response, over_s: float) -> None:
    """Fail unless this is a 429 that says, in this target's form, that it is over at this moment."""
    assert error_of(response) == (429, "rate_limit_exceeded")
    forms = {"Unix milliseconds": over_s * 1_000, "seconds": over_s - NOON}
    assert response.headers["retry-after"] == f"{forms[target.expects('Retry-After')]:.0f}"


@pytest.mark.parametrize(("plan", "per_s"), [("business", 4), ("advanced", 8), ("enterprise", 16)])
async def test_events_per_second(target: Target, clock: FakeClock, plan: str, per_s: int) -> None:
    """So many lists a second, by plan; the next is a 429 that says when to come back."""
    await target.at_dub("PATCH", "/sandbox/settings", {"plan": plan})
    for page in range(1, per_s + 1):
        assert (await target.ask_events(page=page)).status_code == 200
    throttled(target, await target.ask_events(page=99), NOON + 1)
    clock.advance(1)
    assert (await target.ask_events()).status_code == 200


async def test_leads_of_an_app_per_minute(target: Target, clock: FakeClock) -> None:
    """600 leads a minute and key from apps, and from the next minute on again."""
    await target.at_dub("PATCH", "/sandbox/settings", {"plan": "business"})
    click_id = await target.click_id()
    for _ in range(600):
        assert (await target.ask_lead(click_id, "/track/lead/client")).status_code == 200
    response = await target.ask_lead(click_id, "/track/lead/client")
    assert response.status_code == target.expects("the 601st lead of an app in a minute")
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        throttled(target, response, NOON + 60)
    clock.advance(60)
    assert (await target.ask_lead(click_id, "/track/lead/client")).status_code == 200


@pytest.mark.parametrize("path", LEAD_PATHS)
async def test_a_lead_that_waits_hears_of_dubs_429(target: Target, path: str) -> None:
    """When Dub throttles, a caller who waits for the lead to be recorded is told so, and until when."""
    fault = {"route": "/track/lead*", "throttle": True, "retryAfterS": 45}
    await target.at_dub("POST", "/sandbox/faults", fault)
    throttled(target, await target.ask_lead("x", path, mode="wait"), NOON + 45)


@pytest.mark.parametrize("path", CONVERSIONS)
async def test_a_lead_or_sale_while_dub_throttles(target: Target, path: str) -> None:
    """Dub refuses what it is too busy for; the service keeps it, and says that it is not recorded yet."""
    route = path.removesuffix("/client") + "*"
    await target.at_dub("POST", "/sandbox/faults", {"route": route, "throttle": True, "retryAfterS": 45})
    response = await target.ask_rightly(path)
    assert response.status_code == target.expects("a lead or sale while Dub throttles")
    if response.status_code == httpx.codes.OK:
        assert response.headers["firstopen-queued"] == "true"
        assert response.json().get("link") is response.json().get("sale") is None
    else:
        throttled(target, response, NOON + 45)


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
