"""Leads while Valkey is away, with a disk of one's own: accepted, sent, and moved over once it is back."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.shared.replicas import CONFIG, Replica, Sandbox, replica, sandbox, settled, until
from tests.shared.server import Server

PROMO = "https://acme.link/fb-promo"
LOCAL = CONFIG.replace("[outbox]", "[outbox]\nlocal = true")


class World:
    """A replica that keeps leads on its own disk while Valkey is away, and one that does not."""

    def __init__(self, dub: Sandbox, server: Server, here: Replica, there: Replica) -> None:
        self.dub, self.server, self.here, self.there = dub, server, here, there


@pytest.fixture
def world(tmp_path: Path, server: Server) -> Iterator[World]:
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))
        folder = tmp_path / "local"
        folder.mkdir()
        env = {"FIRSTOPEN_DATA_DIR": str(folder / "var")}
        here = stack.enter_context(replica(folder, dub, server.url, config=LOCAL, **env))
        there = stack.enter_context(replica(tmp_path, dub, server.url))
        yield World(dub, server, here, there)


def sign_up(on: Replica, who: str, **whose: str) -> dict[str, object]:
    body = {"eventName": "Sign up", "customerExternalId": who, **whose}
    reply = on.http.post("/v1/leads", json=body)
    assert reply.status_code in (200, 202), reply.text
    lead: dict[str, object] = reply.json()
    return lead


def away(world: World) -> None:
    world.server.stop()
    until(lambda: all("Valkey" in "".join(each.degraded()) for each in (world.here, world.there)))


def test_a_lead_is_sent_from_the_disk_while_valkey_is_away(world: World) -> None:
    """Without Valkey a lead of an install goes to Dub; after, every replica knows. Elsewhere it is a 503."""
    world.here.open(deepLink=PROMO, installId="install-anna")
    away(world)
    lead = sign_up(world.here, "anna", installId="install-anna")
    assert lead["status"] == "delivered"
    assert "leads go to the local outbox" in "".join(world.here.degraded())
    refused = world.there.http.post(
        "/v1/leads", json={"eventName": "Sign up", "customerExternalId": "ben", "clickId": "x" * 16}
    )
    assert refused.status_code == 503
    world.server.start()
    until(lambda: settled(world.there, str(lead["leadId"])) == "delivered")
    assert [event["customer"]["externalId"] for event in world.dub.events("leads")] == ["anna"]


def test_what_dub_has_not_taken_moves_over(world: World) -> None:
    """Leads still queued when Valkey is back go on from there: another replica delivers them, once."""
    click = world.here.open(deepLink=PROMO, installId="install-anna")["clickId"]
    world.dub.fault(route="/track/lead", status=503)
    away(world)
    leads = [sign_up(world.here, f"user-{number}", clickId=click)["leadId"] for number in range(5)]
    world.server.start()
    until(lambda: all(settled(world.there, str(lead)) == "queued" for lead in leads))
    world.here.process.popen.kill()
    world.dub.well()
    until(lambda: all(settled(world.there, str(lead)) == "delivered" for lead in leads), 60)
    whose = sorted(event["customer"]["externalId"] for event in world.dub.events("leads"))
    assert whose == [f"user-{number}" for number in range(5)]


def test_what_is_on_the_disk_outlives_a_crash(world: World, tmp_path: Path) -> None:
    """A replica killed while Valkey is away sends, after its restart, what it had accepted: each once."""
    click = world.here.open(deepLink=PROMO, installId="install-anna")["clickId"]
    world.dub.fault(route="/track/lead", status=503)
    away(world)
    leads = [str(sign_up(world.here, f"user-{number}", clickId=click)["leadId"]) for number in range(5)]
    world.here.process.popen.kill()
    world.here.process.popen.wait()
    world.dub.well()
    env = {"FIRSTOPEN_DATA_DIR": str(tmp_path / "local" / "var")}
    with replica(tmp_path / "local", world.dub, world.server.url, config=LOCAL, **env) as again:
        until(lambda: len(world.dub.events("leads")) == 5)
        world.server.start()
        until(lambda: all(settled(again, lead) == "delivered" for lead in leads))
        until(lambda: all(settled(world.there, lead) == "delivered" for lead in leads))
    assert len(world.dub.events("leads")) == 5


def test_a_dead_letter_of_the_disk_is_kept_in_valkey(world: World) -> None:
    """What Dub refuses for good while Valkey is away is a dead letter there, once it is back."""
    world.dub.fault(route="/track/lead", status=422)
    away(world)
    body = {"eventName": "Sign up", "customerExternalId": "anna", "clickId": "x" * 16}
    assert world.here.http.post("/v1/leads", json=body).status_code == 422
    world.server.start()
    until(lambda: world.there.metric("firstopen_outbox_dead_entries") == 1)


def test_it_is_quick_to_know_that_valkey_is_away(world: World) -> None:
    """While the server is known to be away, an open costs no wait for it."""
    away(world)
    took = []
    for number in range(20):
        began = time.monotonic()
        world.here.open(deepLink=PROMO, installId=f"install-{number}")
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.05
