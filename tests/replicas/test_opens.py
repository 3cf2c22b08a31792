"""Two replicas on one PostgreSQL: what one of them has answered, the other one repeats."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.postgres import Postgres
from tests.replicas.processes import (
    CONFIG,
    IPHONE,
    KEY,
    LIMITS,
    Replica,
    World,
    ip_matching,
    replica,
    sandbox,
    until,
)

PROMO = "https://acme.link/fb-promo"
AT_ONCE = 60


def stored(database_url: str, open_id: str) -> bool:
    """Return whether an open is in the database."""
    with psycopg.connect(database_url) as connection:
        query = "SELECT 1 FROM opens WHERE open_id = %s"
        return connection.execute(query, (bytes.fromhex(open_id),)).fetchone() is not None


def test_an_open_on_one_is_a_repeat_on_the_other(world: World) -> None:
    """The same open gets the same answer from any replica, and Dub is asked once."""
    first = world.here.open(deepLink=PROMO, installId="install-anna")
    until(lambda: stored(world.database_url, first["openId"]))
    again = world.there.open(deepLink=PROMO, installId="install-anna")
    assert (again["openId"], again["clickId"]) == (first["openId"], first["clickId"])
    assert (first["repeat"], again["repeat"], again["source"]) == (False, True, "cache")
    assert len(world.dub.calls("/track/open")) == 1
    assert world.there.http.get(f"/v1/opens/{first['openId']}").json()["clickId"] == first["clickId"]


async def test_an_open_reported_at_the_same_moment_has_one_id(world: World) -> None:
    """Sixty reports of one open in parallel, over both replicas: one openId, one click, one row."""
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=LIMITS) as http:
        bodies = {"deepLink": PROMO, "installId": "install-anna", "budgetMs": 10_000}
        bases = [world.here.base, world.there.base]
        replies = await asyncio.gather(
            *(http.post(f"{bases[at % 2]}/v1/opens", json=bodies) for at in range(AT_ONCE))
        )
    answers = [reply.json() for reply in replies]
    assert len({answer["openId"] for answer in answers}) == 1
    assert len({answer["clickId"] for answer in answers}) == 1
    await asyncio.to_thread(until, lambda: stored(world.database_url, answers[0]["openId"]))
    with psycopg.connect(world.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM opens").fetchone() == (1,)


def test_an_open_is_a_repeat_after_a_restart(tmp_path: Path, postgres: Postgres) -> None:
    """A replica that begins later repeats it, although nobody who answered it runs any more."""
    url = postgres.database()
    with sandbox(tmp_path) as dub:
        with replica(tmp_path, dub.port, url) as before:
            first = before.open(deepLink=PROMO, installId="install-anna")
            assert before.process.stop() == 0
        with replica(tmp_path, dub.port, url) as after:
            again = after.open(deepLink=PROMO, installId="install-anna")
        assert (again["openId"], again["clickId"], again["repeat"]) == (
            first["openId"],
            first["clickId"],
            True,
        )
        assert len(dub.calls("/track/open")) == 1


@pytest.mark.parametrize("by", ["openId", "installId"])
def test_a_sign_up_elsewhere_waits_for_a_click_that_shows_up_late(world: World, by: str) -> None:
    """While one replica looks again for an install's click, another one does not call its lead organic."""
    opened = ip_matching(world.here, "install-anna")
    assert (opened["clickId"], opened["pending"]) == (None, True)
    until(lambda: stored(world.database_url, opened["openId"]))
    assert ip_matching(world.there, "install-anna")["openId"] == opened["openId"]
    body = {"eventName": "Sign up", "customerExternalId": "anna"}
    subject = {"openId": opened["openId"], "installId": "install-anna"}[by]
    reply = world.there.http.post("/v1/leads", json={**body, by: subject})
    assert (reply.status_code, reply.json()["status"]) == (202, "queued")
    world.dub.click("203.0.113.7")
    lead_id = reply.json()["leadId"]
    until(lambda: world.there.http.get(f"/v1/leads/{lead_id}").json()["status"] == "delivered")
    found = world.there.http.get(f"/v1/opens/{opened['openId']}").json()["clickId"]
    assert [event["click"]["id"] for event in world.dub.events("leads")] == [found]
    until(lambda: ip_matching(world.there, "install-anna")["clickId"] == found)


def test_an_install_that_one_erases_is_erased_on_all(tmp_path: Path, postgres: Postgres) -> None:
    """What was answered before is repeated by no replica, also by one that begins after; others' are."""
    url = postgres.database()
    config = CONFIG.replace("dub_api_key_env", 'server_keys_env = "ACME_SERVER_KEYS"\ndub_api_key_env')
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))

        def begin() -> Replica:
            env = {"ACME_SERVER_KEYS": "dub_sk_acme"}
            return stack.enter_context(replica(tmp_path, dub.port, url, config=config, **env))

        here, there = begin(), begin()
        before = {
            who: here.open(deepLink=PROMO, installId=who)["openId"] for who in ("install-a1", "install-b1")
        }
        until(lambda: all(stored(url, open_id) for open_id in before.values()))
        for who, open_id in before.items():
            assert there.open(deepLink=PROMO, installId=who)["openId"] == open_id
        key = {"Authorization": "Bearer dub_sk_acme"}
        reply = here.http.post("/v1/installs/forget", json={"installId": "install-a1"}, headers=key)
        assert reply.json()["answers"] == 1
        for each in (there, begin()):
            until(lambda: each.http.get(f"/v1/opens/{before['install-a1']}").status_code == 404)  # noqa: B023  called at once
            assert each.open(deepLink=PROMO, installId="install-b1")["openId"] == before["install-b1"]
            assert each.open(deepLink=PROMO, installId="install-a1")["openId"] != before["install-a1"]
