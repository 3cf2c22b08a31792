"""A cold start whose two reports reach two replicas: the certain link wins on both."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.replicas.processes import (
    HOME,
    IPHONE,
    KEY,
    LIMITS,
    Replica,
    World,
    ip_matching,
    settled,
    until,
)

PROMO = "https://acme.link/fb-promo"
INSTALLS = 60


def credited(world: World) -> dict[str, str]:
    """Return the click that Dub has credited, by customer."""
    return {event["customer"]["externalId"]: event["click"]["id"] for event in world.dub.events("leads")}


def recalled(on: Replica, open_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = on.http.get(f"/v1/opens/{open_id}").json()
    return answer


def lead(on: Replica, customer: str, **subject: str) -> str:
    body = {"eventName": "Sign up", "customerExternalId": customer, **subject}
    return str(on.http.post("/v1/leads", json=body).json()["leadId"])


def test_a_guess_on_one_replica_gives_way_to_a_link_on_the_other(world: World) -> None:
    """Its click is free on both, its open says so on both, and a sign-up that names it is the link's."""
    world.dub.click(HOME, "invite")
    guess = ip_matching(world.here, "install-anna")
    assert guess["match"]["type"] == "ip"
    certain = world.there.open(deepLink=PROMO, installId="install-anna")
    assert certain["match"]["type"] == "deep_link"
    for each in (world.here, world.there):
        until(lambda: recalled(each, guess["openId"])["match"].get("reason") == "superseded")  # noqa: B023  called at once
        assert recalled(each, guess["openId"])["clickId"] is None
        again = ip_matching(each, "install-anna")
        assert (again["openId"], again["clickId"]) == (guess["openId"], None)
    until(lambda: lead(world.here, "anna", openId=guess["openId"]))
    until(lambda: credited(world) == {"anna": certain["clickId"]})
    housemates = [ip_matching(each, f"house-mate-{each.port}") for each in (world.here, world.there)]
    assert [each["link"] and each["link"]["key"] for each in housemates] == ["invite", None]


async def test_cold_starts_that_report_to_two_replicas(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both reports are under way at once: no lead and no claim goes to the guess."""
    for number in range(INSTALLS):
        await asyncio.to_thread(world.dub.click, f"198.51.100.{number}", "invite")
    for route, delay_ms in (("/track/open", 120), ("/events", 40)):
        await asyncio.to_thread(world.dub.fault, route=route, delayMs=delay_ms)
    replicas = (world.here, world.there)
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=LIMITS) as http:

        async def report(number: int, on: Replica, after_s: float, **fields: Any) -> dict[str, Any]:
            await asyncio.sleep(after_s)
            address = {"X-Forwarded-For": f"198.51.100.{number}"}
            body = {"installId": f"install-{number}", "budgetMs": 10_000, **fields}
            reply = await http.post(f"{on.base}/v1/opens", json=body, headers=address)
            assert reply.status_code == 200, reply.text
            answer: dict[str, Any] = reply.json()
            return answer

        async def cold_start(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
            gap_s = 0.3 * number / INSTALLS
            return await asyncio.gather(
                report(number, replicas[number % 2], 0, dubDomain="acme.link"),
                report(number, replicas[1 - number % 2], gap_s, deepLink=PROMO),
            )

        opens = await asyncio.gather(*map(cold_start, range(INSTALLS)))
    await asyncio.to_thread(world.dub.well)
    counts: Counter[str] = Counter()
    leads: list[tuple[Replica, str]] = []
    for number, (guess, certain) in enumerate(opens):
        counts["guesses that were answered"] += guess["match"]["type"] == "ip"
        on = replicas[number % 2]
        until(lambda: recalled(on, guess["openId"])["match"]["type"] != "ip")  # noqa: B023  called at once
        assert recalled(on, guess["openId"])["clickId"] in (None, certain["clickId"])
        leads += [
            (on, lead(on, f"{number} by {next(iter(subject))}", **subject))
            for subject in ({"installId": f"install-{number}"}, {"openId": guess["openId"]})
        ]
    until(lambda: all(settled(on, lead_id) == "delivered" for on, lead_id in leads))
    for number in range(INSTALLS):
        housemate = ip_matching(replicas[number % 2], f"house-mate-{number}", f"198.51.100.{number}")
        counts["web clicks that are free again"] += (housemate["link"] or {}).get("key") == "invite"
    clicks = credited(world)
    for number, (_, certain) in enumerate(opens):
        for name in ("installId", "openId"):
            is_certain = clicks[f"{number} by {name}"] == certain["clickId"]
            counts["leads to the certain link" if is_certain else "leads to weaker evidence"] += 1
    with capsys.disabled():
        print(f"\ntwo replicas: {dict(counts)}")  # noqa: T201  what the run has shown
    assert counts["leads to weaker evidence"] == 0
    assert counts["leads to the certain link"] == 2 * INSTALLS
    assert counts["web clicks that are free again"] == INSTALLS
    assert counts["guesses that were answered"] > 0
