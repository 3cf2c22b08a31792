"""Two replicas on one PostgreSQL match as one: they share clicks, claims, crowds, and who asks Dub."""

import asyncio
import time
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import psycopg

from tests.postgres import Postgres
from tests.replicas.processes import (
    CONFIG,
    HOME,
    IPHONE,
    KEY,
    LIMITS,
    Replica,
    Sandbox,
    World,
    ip_matching,
    replica,
    two_replicas,
    until,
)
from tests.replicas.test_opens import stored

PROMO = "https://acme.link/fb-promo"
RACING = 200
TAKEN_OVER_S = 5.0


async def launches(*who: tuple[Replica, str]) -> list[dict[str, Any]]:
    """Report first launches from one address at the same moment."""
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE, "X-Forwarded-For": HOME}
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=LIMITS) as http:

        async def launch(on: Replica, install: str) -> dict[str, Any]:
            body = {"dubDomain": "acme.link", "installId": install, "budgetMs": 10_000}
            reply = await http.post(f"{on.base}/v1/opens", json=body)
            assert reply.status_code == 200, reply.text
            answer: dict[str, Any] = reply.json()
            return answer

        return await asyncio.gather(*(launch(on, install) for on, install in who))


def asked(dub: Sandbox) -> list[dict[str, str]]:
    """Return what Dub was asked for clicks."""
    return [dict(parse_qsl(call["query"])) for call in dub.calls("/events")]


def test_an_install_matched_on_one_is_a_repeat_on_the_other(world: World) -> None:
    """It keeps its click wherever it asks again, and another install is given none."""
    world.dub.click(HOME)
    first = ip_matching(world.here, "install-anna")
    assert (first["match"]["type"], first["repeat"]) == ("ip", False)
    until(lambda: stored(world.database_url, first["openId"]))
    again = ip_matching(world.there, "install-anna")
    assert (again["openId"], again["clickId"]) == (first["openId"], first["clickId"])
    assert again["repeat"]
    assert ip_matching(world.there, "install-ben")["clickId"] is None


async def test_one_click_is_raced_for_over_both_replicas(world: World) -> None:
    """Of 200 installs behind one address, exactly one is given the only click."""
    await asyncio.to_thread(world.dub.click, HOME)
    who = [((world.here, world.there)[number % 2], f"install-{number}") for number in range(RACING)]
    answers = await launches(*who)
    winners = [answer for answer in answers if answer["clickId"]]
    assert len(winners) == 1, Counter(str(answer["match"]) for answer in answers)
    assert (winners[0]["match"]["type"], winners[0]["link"]["key"]) == ("ip", "fb-promo")


def test_one_replica_asks_dub_for_clicks_and_all_read(world: World) -> None:
    """Clicks that one replica fetched are not fetched again by the other: it asks for what is new only."""
    for number in range(30):
        world.dub.click(f"198.51.100.{number}")
    world.dub.click(HOME)
    assert ip_matching(world.here, "install-else", "198.51.100.200")["clickId"] is None
    assert ip_matching(world.there, "install-anna")["match"]["type"] == "ip"
    starts = [datetime.fromisoformat(each["start"]) for each in asked(world.dub) if each["page"] == "1"]
    assert (starts[-1] - starts[0]).total_seconds() > 1800


async def test_opens_that_arrive_together_share_a_sync(world: World) -> None:
    """On both replicas: while one asks Dub, all wait; the one that asks next does so for everybody, too."""
    answers = await launches(
        *(((world.here, world.there)[number % 2], f"install-{number}") for number in range(40))
    )
    assert {answer["match"].get("reason") for answer in answers} == {"no_click"}
    first_pages = [each for each in asked(world.dub) if each["page"] == "1"]
    assert 1 <= len(first_pages) <= 10


def test_an_install_found_on_one_uses_up_clicks_on_the_other(world: World) -> None:
    """A link that is certain has found the install: nobody else on its network is given the link's clicks."""
    world.dub.click(HOME)
    body = {"deepLink": PROMO, "installId": "install-anna"}
    reply = world.here.http.post("/v1/opens", json=body, headers={"X-Forwarded-For": HOME})
    assert reply.json()["match"]["type"] == "deep_link"
    until(lambda: stored(world.database_url, reply.json()["openId"]))
    guess = ip_matching(world.there, "install-ben")
    assert (guess["clickId"], guess["match"]["reason"]) == (None, "no_candidate")


def test_a_crowd_is_counted_over_both_replicas(tmp_path: Path, postgres: Postgres) -> None:
    """Installs that opened behind one address on one replica count on the other, also after a restart."""
    url = postgres.database()
    config = CONFIG.replace("min_confidence = 0", "min_confidence = 0.995").replace('"latest"', '"refuse"')
    with two_replicas(tmp_path, url, config=config) as (here, there, dub, _), ExitStack() as stack:
        for number in range(12):
            opened = ip_matching((here, there)[number % 2], f"install-{number}")
            until(lambda: stored(url, opened["openId"]))  # noqa: B023  called at once
        dub.click(HOME)
        for each in (here, stack.enter_context(replica(tmp_path, dub.port, url, config=config))):
            last = ip_matching(each, f"install-on-{each.port}")
            assert last["match"] == {"type": "none", "guaranteed": False, "reason": "crowd"}


async def test_a_turn_to_ask_dub_is_taken_over_from_a_replica_that_died(world: World) -> None:
    """A replica killed while it waits for Dub holds the others up for less than five seconds."""
    await asyncio.to_thread(world.dub.click, HOME)
    world.dub.fault(route="/events", stall=True, times=1)
    holding = asyncio.create_task(launches((world.here, "install-ben")))
    await asyncio.to_thread(until, lambda: owner(world.database_url) and world.dub.calls("/events"))
    holder = owner(world.database_url)
    world.here.process.popen.kill()
    killed = time.monotonic()
    (answer,) = await launches((world.there, "install-anna"))
    took_s = time.monotonic() - killed
    assert answer["match"]["type"] == "ip"
    assert owner(world.database_url) != holder
    assert took_s < TAKEN_OVER_S
    await asyncio.gather(holding, return_exceptions=True)


def owner(database_url: str) -> str | None:
    """Return which replica syncs clicks at the moment."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT owner FROM click_syncs").fetchone()
        return None if found is None else found[0]
