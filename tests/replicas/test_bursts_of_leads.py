"""Many leads at the same moment, as after a push message: a database that works accepts all of them."""

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.postgres import Postgres
from tests.replicas.processes import KEY, Replica, replica, sandbox, until

LEADS = 2000
FILES = 4096  # of this process: each lead has a connection
LEAD = {"eventName": "Sign up", "customerEmail": "somebody@example.com"}
ACCEPTED = {"200", "202"}


@pytest.fixture(params=["sqlite", "postgres"])
def service(request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path) -> Iterator[Replica]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    url = postgres.database() if request.param == "postgres" else ""
    with sandbox(tmp_path) as dub, replica(tmp_path, dub.port, url) as found:
        yield found
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def request_of(lead: dict[str, str]) -> bytes:
    body = msgspec.json.encode({**LEAD, **lead})
    head = f"POST /v1/leads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def answers(port: int, leads: list[dict[str, str]]) -> Counter[str]:
    """Send all leads at once, each over a connection of its own; count the answers by their status."""
    streams = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in leads))
    for (_, writer), lead in zip(streams, leads, strict=True):
        writer.write(request_of(lead))
    heads = await asyncio.gather(*(reader.readuntil(b"\r\n") for reader, _ in streams))
    for _, writer in streams:
        writer.close()
    return Counter(head.split(b" ")[1].decode() for head in heads)


async def test_leads_of_clicks(service: Replica) -> None:
    """Each is sent to Dub while the others are still being stored."""
    click = service.open(deepLink="https://acme.link/fb-promo", installId="install-anna")["clickId"]
    leads = [{"clickId": click, "customerExternalId": f"{number}"} for number in range(LEADS)]
    found = await answers(service.port, leads)
    assert set(found) <= ACCEPTED, found
    assert found.total() == LEADS


async def test_leads_of_installs_without_an_open(service: Replica) -> None:
    """Each install is looked up first; its lead waits for its open."""
    leads = [
        {"installId": f"install-{number:06}", "customerExternalId": f"{number}"} for number in range(LEADS)
    ]
    assert await answers(service.port, leads) == {"202": LEADS}
    until(lambda: service.metric('firstopen_outbox_entries{kind="lead"}') == LEADS)
