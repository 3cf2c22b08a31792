"""A Cluster, a Sentinel, TLS: the same service, whatever the operator runs."""

import asyncio
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis, RedisCluster, SSLConnection

from service.store.valkey_url import BadValkeyURL, connect
from tests.shared.cluster import clustered, watched
from tests.shared.replicas import Replica, Sandbox, first_launch, replica, sandbox, settled, until
from tests.shared.server import Server

PROMO = "https://acme.link/fb-promo"
HOME = "203.0.113.7"


def the_whole_story(dub: Sandbox, here: Replica, there: Replica) -> None:
    """A repeat over replicas, a raced click, and a lead of a killed replica."""
    first = here.open(deepLink=PROMO, installId="install-anna")
    until(lambda: there.http.get(f"/v1/opens/{first['openId']}").status_code == 200)
    again = there.open(deepLink=PROMO, installId="install-anna")
    assert (again["openId"], again["repeat"]) == (first["openId"], True)
    dub.click(HOME)
    found = [first_launch((here, there)[number % 2], f"install-{number}", HOME) for number in range(6)]
    assert Counter(bool(each["clickId"]) for each in found)[True] == 1
    dub.fault(route="/track/lead", stall=True)
    body = {"clickId": first["clickId"], "eventName": "Sign up", "customerExternalId": "anna"}
    lead = here.http.post("/v1/leads", json=body)
    assert lead.status_code == 202
    here.process.popen.send_signal(signal.SIGKILL)
    dub.well()
    until(lambda: settled(there, lead.json()["leadId"]) == "delivered", 60)
    assert len(dub.events("leads")) == 1


def test_three_nodes_of_a_cluster(tmp_path: Path) -> None:
    """Opens, claims and the outbox work over three shards; none of them holds everything."""
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))
        url, servers = stack.enter_context(clustered(tmp_path / "cluster"))
        here, there = (stack.enter_context(replica(tmp_path, dub, url)) for _ in range(2))
        the_whole_story(dub, here, there)
        assert there.degraded() == []
        sizes = []
        for server in servers:
            with server.client as client:
                sizes.append(client.dbsize())
        assert all(sizes), sizes


def test_a_server_behind_a_sentinel(tmp_path: Path, server: Server) -> None:
    """The server is found by its name, and found again where it is after a restart."""
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))
        url = stack.enter_context(watched(tmp_path / "sentinel", server))
        here, there = (stack.enter_context(replica(tmp_path, dub, url)) for _ in range(2))
        server.stop()
        until(lambda: "Valkey" in "".join(there.degraded()))
        server.start()
        until(lambda: not there.degraded() and not here.degraded())
        the_whole_story(dub, here, there)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "redis://",
        "redis://a,b",
        "redis://h:port",
        "redis://h/x",
        "redis+sentinel://h",
        "redis+raft://h",
        "redis://h?max_connections=1",
    ],
)
def test_a_url_that_names_no_server_is_refused(url: str) -> None:
    """What cannot be a server stops the boot."""
    with pytest.raises(BadValkeyURL):
        connect(url)


@pytest.mark.parametrize("password", ["secret/secret", "12/secret", "secret#secret", "secret?db=secret"])
def test_a_password_that_was_not_quoted_is_not_shown(password: str) -> None:
    """A URL that is cut at the wrong place shows nothing of what is behind it."""
    for url in (f"redis://:{password}@host:6379/0", f"redis://user:{password}@host:6379/0"):
        with pytest.raises(BadValkeyURL) as refused:
            connect(url)
        assert "secret" not in str(refused.value)


def test_urls_name_what_they_say() -> None:
    """Passwords are unquoted, TLS is on where the scheme says so, and several nodes make a Cluster."""
    plain, tls = connect("redis://u:p%40ss@h:1/2"), connect("rediss://h")
    assert isinstance(plain, Redis)
    assert isinstance(tls, Redis)
    told = plain.connection_pool.connection_kwargs
    assert [told[name] for name in ("host", "port", "db", "username", "password")] == ["h", 1, 2, "u", "p@ss"]
    assert tls.connection_pool.connection_class is SSLConnection

    async def cluster() -> bool:
        return isinstance(connect("rediss+cluster://a:1,b:2"), RedisCluster)

    assert asyncio.run(cluster())
