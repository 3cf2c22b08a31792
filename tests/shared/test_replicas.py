"""Two replicas with one Valkey: what one of them knows or owes, the other one does."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from tests.process import finished
from tests.shared.conftest import RACED, TAKEN_OVER
from tests.shared.replicas import (
    CONFIG,
    HOME,
    IPHONE,
    KEY,
    LIMITS,
    Replica,
    Sandbox,
    first_launch,
    replica,
    sandbox,
    settled,
    until,
)
from tests.shared.server import Server, serving

PROMO = "https://acme.link/fb-promo"


class World:
    """One sandbox, one server, two replicas."""

    def __init__(self, dub: Sandbox, server: Server, here: Replica, there: Replica) -> None:
        self.dub, self.server, self.here, self.there = dub, server, here, there


@pytest.fixture
def world(tmp_path: Path, server: Server) -> Iterator[World]:
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))
        here, there = (stack.enter_context(replica(tmp_path, dub, server.url)) for _ in range(2))
        yield World(dub, server, here, there)


def test_an_open_on_one_is_a_repeat_on_the_other(world: World) -> None:
    """The same open gets the same answer from any replica, and Dub is asked once."""
    first = world.here.open(deepLink=PROMO, installId="install-anna")
    until(lambda: world.server.client.dbsize() > 0)
    again = world.there.open(deepLink=PROMO, installId="install-anna")
    assert (again["openId"], again["clickId"]) == (first["openId"], first["clickId"])
    assert (first["repeat"], again["repeat"], again["source"]) == (False, True, "cache")
    assert len(world.dub.calls("/track/open")) == 1
    assert world.there.http.get(f"/v1/opens/{first['openId']}").json()["clickId"] == first["clickId"]
    other = world.there.open(deepLink="https://acme.com/product/7", installId="install-anna")
    until(lambda: world.here.http.get(f"/v1/opens/{other['openId']}").status_code == 200)
    assert world.here.open(deepLink="https://acme.com/product/7", installId="install-anna")["repeat"]


@pytest.mark.parametrize("garbage", [b"\xc1", b"\x80", b"\x01damaged", b""])
def test_what_cannot_be_read_is_not_there(world: World, garbage: bytes) -> None:
    """Answers, links and opens of another layout, or damaged, fail no open: they are found anew."""
    for link in (PROMO, "https://acme.link/nope"):
        world.here.open(deepLink=link, installId="install-anna")
    opened = first_launch(world.here, "install-anna")
    until(lambda: len([*world.server.client.scan_iter("fo1:[ul]:*")]) == 2)
    until(lambda: world.server.client.exists(f"fo1:o:{opened['openId']}"))
    with world.server.client as client:
        for key in client.scan_iter("fo1:[alou]:*"):
            client.set(key, garbage, keepttl=True)
    again = world.there.open(deepLink=PROMO, installId="install-anna")
    assert (again["source"], again["pending"]) == ("dub", False)
    assert not world.there.open(deepLink="https://acme.link/nope", installId="install-anna")["pending"]
    assert not first_launch(world.there, "install-anna")["pending"]
    assert world.there.http.get(f"/v1/opens/{opened['openId']}").status_code == 404


def test_a_hit_in_process_asks_nobody(world: World) -> None:
    """What a replica remembers itself, it answers without a command to the server."""
    world.here.open(deepLink=PROMO, installId="install-anna")
    with world.server.client as client:
        client.config_resetstat()
        for _ in range(50):
            assert world.here.open(deepLink=PROMO, installId="install-anna")["repeat"]
        asked = client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
        assert asked < 10  # the outbox's own look, now and then


def test_links_and_unknown_links_are_shared(world: World) -> None:
    """A link that one replica knows routes an open on the other while Dub is away; so does "no such link"."""
    world.here.open(deepLink=PROMO, installId="install-anna")
    unknown = world.here.open(deepLink="https://acme.link/nope", installId="install-anna")
    assert unknown["route"]["screen"] == "home"
    until(lambda: len([*world.server.client.scan_iter("fo1:[ul]:*")]) == 2)
    world.dub.fault(route="/track/open", status=503)
    stale = world.there.open(deepLink=PROMO, installId="install-ben")
    assert (stale["source"], stale["route"]["url"]) == ("stale", "https://acme.com/product/123")
    known = world.there.open(deepLink="https://acme.link/nope", installId="install-ben")
    assert (known["pending"], known["source"]) == (False, "cache")


async def test_one_click_two_hundred_installs_two_replicas(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    """A click that 200 installs behind one address race for, over both replicas, is given to exactly one."""
    await asyncio.to_thread(world.dub.click, HOME)
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE, "X-Forwarded-For": HOME}
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=LIMITS) as http:

        async def first_open(number: int) -> dict[str, Any]:
            base = (world.here, world.there)[number % 2].base
            body = {"dubDomain": "acme.link", "installId": f"install-{number}", "budgetMs": 10_000}
            reply = await http.post(f"{base}/v1/opens", json=body)
            assert reply.status_code == 200, reply.text
            answer: dict[str, Any] = reply.json()
            return answer

        answers = await asyncio.gather(*(first_open(number) for number in range(200)))
    winners = [answer for answer in answers if answer["clickId"]]
    assert len(winners) == 1, Counter(str(answer["match"]) for answer in answers)
    assert winners[0]["match"]["type"] == "ip"
    assert winners[0]["route"]["screen"] == "home"
    assert winners[0]["link"]["key"] == "fb-promo"
    record_property(RACED, len(answers))


def test_a_killed_replicas_leads_are_delivered_once(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    """What a replica acknowledged before kill -9, the other one delivers: each lead once, in order."""
    click = world.here.open(deepLink=PROMO, installId="install-anna")["clickId"]
    world.dub.fault(route="/track/lead", stall=True)
    body = {"clickId": click, "eventName": "Sign up", "customerExternalId": "anna"}
    reply = world.here.http.post("/v1/leads", json=body)
    assert (reply.status_code, reply.json()["status"]) == (202, "queued")
    second = world.here.http.post("/v1/leads", json={**body, "eventName": "Trial"})
    assert second.status_code == 202
    world.here.process.popen.send_signal(signal.SIGKILL)
    world.here.process.popen.wait()
    world.dub.well()
    until(lambda: len(world.dub.events("leads")) >= 2, 60)
    leads = [reply.json()["leadId"], second.json()["leadId"]]
    for lead in leads:
        until(lambda lead=lead: settled(world.there, lead) == "delivered")  # type: ignore[misc]
    assert Counter(event["eventName"] for event in world.dub.events("leads")) == {"Sign up": 1, "Trial": 1}
    record_property(TAKEN_OVER, len(leads))


@pytest.mark.parametrize("by", ["openId", "installId"])
def test_a_sign_up_elsewhere_waits_for_a_click_that_shows_up_late(world: World, by: str) -> None:
    """While one replica looks again for an install's click, another one does not call its lead organic."""
    opened = first_launch(world.here, "install-anna")
    assert (opened["clickId"], opened["pending"]) == (None, True)
    until(lambda: world.server.client.exists(f"fo1:o:{opened['openId']}"))
    assert first_launch(world.there, "install-anna")["openId"] == opened["openId"]
    body = {"eventName": "Sign up", "customerExternalId": "anna"}
    whose = {"openId": opened["openId"], "installId": "install-anna"}[by]
    reply = world.there.http.post("/v1/leads", json={**body, by: whose})
    assert (reply.status_code, reply.json()["status"]) == (202, "queued")
    world.dub.click(HOME)
    until(lambda: settled(world.there, reply.json()["leadId"]) == "delivered")
    found = world.there.http.get(f"/v1/opens/{opened['openId']}").json()["clickId"]
    assert [event["click"]["id"] for event in world.dub.events("leads")] == [found]
    until(lambda: first_launch(world.there, "install-anna")["clickId"] == found)


def test_an_install_that_one_forgets_all_forget(tmp_path: Path, server: Server) -> None:
    """What was answered before is repeated by no replica, also by one that begins after; others' are."""
    config = CONFIG.replace("dub_api_key_env", 'server_keys_env = "ACME_SERVER_KEYS"\ndub_api_key_env')
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))

        def begin() -> Replica:
            env = {"ACME_SERVER_KEYS": "dub_sk_acme"}
            return stack.enter_context(replica(tmp_path, dub, server.url, config=config, **env))

        here, there = begin(), begin()
        before = {
            who: here.open(deepLink=PROMO, installId=who)["openId"] for who in ("install-a", "install-b")
        }
        until(lambda: server.client.exists(*(f"fo1:o:{open_id}" for open_id in before.values())) == 2)
        for who, open_id in before.items():
            assert there.open(deepLink=PROMO, installId=who)["openId"] == open_id
        key = {"Authorization": "Bearer dub_sk_acme"}
        reply = here.http.post("/v1/installs/forget", json={"installId": "install-a"}, headers=key)
        assert reply.json()["answers"] == 1
        until(lambda: there.http.get(f"/v1/opens/{before['install-a']}").status_code == 404)
        for each in (there, begin()):
            assert each.open(deepLink=PROMO, installId="install-b")["openId"] == before["install-b"]
            assert each.open(deepLink=PROMO, installId="install-a")["openId"] != before["install-a"]


def test_a_stop_hands_over_at_once(world: World) -> None:
    """A replica that is told to stop leaves what it could not send to the other, which need not wait."""
    click = world.here.open(deepLink=PROMO, installId="install-anna")["clickId"]
    world.dub.fault(route="/track/lead", status=503)
    body = {"clickId": click, "eventName": "Sign up", "customerExternalId": "anna"}
    lead = world.here.http.post("/v1/leads", json=body).json()["leadId"]
    assert world.here.process.stop() == 0
    world.dub.well()
    until(lambda: settled(world.there, lead) == "delivered", 14)


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--appendfsync", "everysec", "appendfsync"),
        ("--appendonly", "no", "appendonly"),
        ("--maxmemory-policy", "volatile-lru", "maxmemory_policy"),
    ],
)
def test_a_server_that_may_lose_leads_is_named_at_boot(
    tmp_path: Path, option: str, value: str, field: str
) -> None:
    """One that acknowledges before it writes, or evicts, is a warning in the log, with what it is set to."""
    safe = {"appendonly": "yes", "appendfsync": "always", "maxmemory_policy": "noeviction"}
    with sandbox(tmp_path) as dub, serving(tmp_path / "valkey", option, value) as server:
        with replica(tmp_path, dub, server.url) as started:
            line = json.loads(started.process.until("valkey.not_durable"))
        assert {name: line[name] for name in safe} == {**safe, field: value}
        assert line["level"] == "warning"


def test_a_server_that_loses_nothing_is_no_warning(world: World) -> None:
    """With the options that the README asks for, nothing is said at boot."""
    world.here.open(deepLink=PROMO, installId="install-anna")
    assert world.here.process.stop() == 0
    text = "".join(world.here.process.rest())
    assert "service.stopped" in text
    assert "valkey.not_durable" not in text


def test_the_command_line_sees_what_replicas_share(world: World, tmp_path: Path) -> None:
    """`firstopen outbox` lists what is queued in Valkey, shows an entry, and revives dead letters."""
    click = world.here.open(deepLink=PROMO, installId="install-anna")["clickId"]
    world.dub.fault(route="/track/lead", status=422)
    body = {"clickId": click, "eventName": "Sign up", "customerExternalId": "anna"}
    refused = world.here.http.post("/v1/leads", json=body)
    env = {
        "FIRSTOPEN_CONFIG": str(tmp_path / "firstopen.toml"),
        "FIRSTOPEN_SECRET": "a secret for tests of 32 characters or more",
        "FIRSTOPEN_VALKEY_URL": world.server.url,
    }
    assert refused.status_code == 422
    until(lambda: "Dub refused it" in finished(["outbox"], tmp_path, env)[1])
    (entry_id,) = [
        key.decode().rpartition(":")[2] for key in world.server.client.scan_iter("fo1:{outbox}:e:*")
    ]
    code, text = finished(["outbox", "show", entry_id, "--reveal"], tmp_path, env)
    assert code == 0
    assert '"customerExternalId": "anna"' in text
    world.dub.well()
    assert finished(["outbox", "retry", "--all"], tmp_path, env) == (0, "1 queued again")
    until(lambda: len(world.dub.events("leads")) == 1)


def test_one_replica_asks_dub_for_clicks_and_all_read(world: World) -> None:
    """Clicks that one replica fetched are in the other's window: an open there asks for what is new only."""
    for number in range(30):
        world.dub.click(f"198.51.100.{number}")
    world.dub.click(HOME)
    assert first_launch(world.here, "install-else", "198.51.100.200")["clickId"] is None
    assert world.server.client.xlen("fo1:{w:acme}:found") == 1
    assert first_launch(world.there, "install-anna")["match"]["type"] == "ip"
    asked = [dict(parse_qsl(call["query"])) for call in world.dub.calls("/events")]
    starts = [datetime.fromisoformat(each["start"]) for each in asked if each["page"] == "1"]
    assert (starts[-1] - starts[0]).total_seconds() > 1800


def test_a_crowd_is_counted_over_all_replicas(tmp_path: Path, server: Server) -> None:
    """Installs that opened behind one address on one replica count on the other: it is a crowd."""
    config = CONFIG.replace("crowd_limit = 1000", "crowd_limit = 3").replace('"latest"', '"refuse"')
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))
        replicas = [stack.enter_context(replica(tmp_path, dub, server.url, config=config)) for _ in range(2)]
        for number in range(4):
            first_launch(replicas[number % 2], f"install-{number}")
        dub.click(HOME)
        last = first_launch(replicas[0], "install-4")
        assert last["match"] == {"type": "none", "guaranteed": False, "reason": "crowd"}
        assert replicas[0].metric("firstopen_matching_refused_total") >= 1
        with server.client as client:
            (crowd,) = client.scan_iter("fo1:n:acme:*")
            assert client.zcard(crowd) == 5
            assert 0 < client.ttl(crowd) <= 3600
