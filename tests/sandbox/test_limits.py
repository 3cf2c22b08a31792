"""Plans: what they refuse, and how Dub says "too many"."""

import pytest

from service.sandbox import SandboxSettings
from tests.sandbox.support import NOON, FakeClock, Sandbox, build, error_of

LEAD = {"clickId": "x", "eventName": "Sign up", "customerExternalId": "user_1"}


def on_plan(clock: FakeClock, plan: str) -> Sandbox:
    return build(clock, settings=SandboxSettings(plan=plan))  # type: ignore[arg-type]  # the names are under test


@pytest.mark.parametrize("plan", ["free", "pro"])
@pytest.mark.parametrize("path", ["/track/lead", "/track/lead/client", "/track/sale", "/track/sale/client"])
async def test_lower_plans_have_no_conversions(clock: FakeClock, plan: str, path: str) -> None:
    """Below Business, leads and sales are a 403, and so is `/events`; opens are not."""
    sandbox = on_plan(clock, plan)
    async with sandbox.http:
        assert error_of(await sandbox.post(path, LEAD))[:2] == (403, "forbidden")
        assert error_of(await sandbox.ask_events())[:2] == (403, "forbidden")
        assert (await sandbox.open())["clickId"]


@pytest.mark.parametrize(("plan", "per_s"), [("business", 4), ("advanced", 8), ("enterprise", 16)])
async def test_analytics_per_second(clock: FakeClock, plan: str, per_s: int) -> None:
    """So many `/events` a second and key; the next is a 429, and another key is not throttled by it."""
    sandbox = on_plan(clock, plan)
    async with sandbox.http:
        for _ in range(per_s):
            assert (await sandbox.ask_events()).status_code == 200
        assert (await sandbox.ask_events()).status_code == 429
        other = await sandbox.http.get("/events", headers={"authorization": "Bearer dub_other"})
        assert other.status_code == 200
        clock.advance(1)
        assert (await sandbox.ask_events()).status_code == 200


@pytest.mark.parametrize(
    ("plan", "path", "per_min"),
    [
        ("free", "/track/lead", 60),
        ("business", "/track/lead", 1_200),
        ("business", "/track/lead/client", 600),
    ],
)
async def test_calls_per_minute(clock: FakeClock, plan: str, path: str, per_min: int) -> None:
    """So many calls a minute and key; Retry-After is the Unix time in milliseconds at which it is over."""
    sandbox = on_plan(clock, plan)
    async with sandbox.http:
        for _ in range(per_min):
            assert (await sandbox.post(path, LEAD)).status_code != 429
        response = await sandbox.post(path, LEAD)
        assert error_of(response)[:2] == (429, "rate_limit_exceeded")
        over_ms = str(int((NOON + 60) * 1_000))
        assert response.headers["retry-after"] == over_ms
        assert response.headers["x-ratelimit-reset"] == over_ms
        assert response.headers["x-ratelimit-limit"] == str(per_min)
        assert response.headers["x-ratelimit-remaining"] == "0"
        clock.advance(60)
        assert (await sandbox.post(path, LEAD)).status_code != 429


async def test_client_calls_share_a_limit(clock: FakeClock) -> None:
    """An app's key has 600 calls a minute for leads and sales together, not 600 for each.

    dub-api.md, "POST /track/lead (and /track/lead/client)".
    """
    sandbox = on_plan(clock, "business")
    async with sandbox.http:
        for _ in range(300):
            assert (await sandbox.post("/track/lead/client", LEAD)).status_code != 429
            assert (await sandbox.post("/track/sale/client", LEAD)).status_code != 429
        for path in ("/track/lead/client", "/track/sale/client"):
            assert (await sandbox.post(path, LEAD)).status_code == 429
        assert (await sandbox.post("/track/sale/client", LEAD, key="dub_pk_other")).status_code != 429


async def test_plan_can_change(sandbox: Sandbox) -> None:
    """A plan set while the sandbox runs counts from then on, and null lifts it."""
    assert (await sandbox.ask_events()).status_code == 200
    await sandbox.settings(plan="pro")
    assert (await sandbox.ask_events()).status_code == 403
    await sandbox.settings(plan=None)
    assert (await sandbox.ask_events()).status_code == 200
