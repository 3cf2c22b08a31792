"""``GET /v1/opens/live``: opens of both replicas within a second, to a bounded number of watchers."""

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.attribution.live_feed import WATCHERS_MAX
from tests.postgres import Postgres
from tests.replicas.processes import CONFIG, HOME, Replica, World, two_replicas, until

KEY = "server-key-of-acme"
AS_SERVER = {"Authorization": f"Bearer {KEY}"}
FB_PROMO = "https://acme.link/fb-promo?email=anna@example.com"
ANNA, BEN = "install-of-anna", "install-of-ben"
GRACE_S = 10


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[World]:
    """Two replicas for the tests of this file, with a server key."""
    folder = Path(tmp_path_factory.mktemp("live"))
    config = CONFIG.replace('leads = "client"', 'leads = "client"\nserver_keys_env = "ACME_SERVER_KEYS"')
    config += '\n[[apps.acme.routes]]\npattern = "https://acme.com/product/:id"\nscreen = "product"\n'
    with two_replicas(folder, postgres.database(), config=config, ACME_SERVER_KEYS=KEY) as found:
        yield found


class Follower:
    """A connection that reads events in a thread, and notes when each came."""

    def __init__(self, on: Replica, headers: dict[str, str] | None = None, **query: str) -> None:
        self.text = ""
        self.last_id = ""
        self._events: queue.Queue[tuple[str, dict[str, Any], float] | None] = queue.Queue()
        self._connected = threading.Event()
        self._reply: httpx.Response | None = None
        self._thread = threading.Thread(
            target=self._read, args=(f"{on.base}/v1/opens/live", {**AS_SERVER, **(headers or {})}, query)
        )
        self._thread.start()
        assert self._connected.wait(GRACE_S)

    def _read(self, url: str, headers: dict[str, str], query: dict[str, str]) -> None:
        name = ""
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", url, headers=headers, params=query, timeout=30) as reply,
        ):
            self.status, self.content_type = reply.status_code, reply.headers["content-type"]
            self._reply = reply
            for line in reply.iter_lines():
                self.text += line + "\n"
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "id":
                    self.last_id = value
                elif field == "data":
                    self._events.put((name, json.loads(value), time.monotonic()))
                else:
                    self._connected.set()  # a heartbeat: what is answered from now on is sent
        self._connected.set()
        self._events.put(None)

    def next(self) -> tuple[dict[str, Any], float]:
        """Return the next open, and when it came."""
        event = self._events.get(timeout=GRACE_S)
        assert event is not None, "the connection has ended"
        assert event[0] == "open"
        return event[1], event[2]

    def ends(self) -> None:
        """Wait until the service has ended the connection."""
        while self._events.get(timeout=GRACE_S) is not None:
            pass
        self._thread.join(GRACE_S)

    def leave(self) -> None:
        """Close the connection."""
        if self._reply is not None:
            with contextlib.suppress(OSError):  # it has ended
                stream = self._reply.extensions["network_stream"]
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._thread.join(GRACE_S)


@contextlib.contextmanager
def following(on: Replica, headers: dict[str, str] | None = None, **query: str) -> Iterator[Follower]:
    follower = Follower(on, headers, **query)
    try:
        yield follower
    finally:
        follower.leave()


def test_opens_of_both_replicas_arrive_within_a_second(shared: World) -> None:
    with following(shared.here) as follower:
        assert follower.content_type.startswith("text/event-stream")
        for number, on in enumerate((shared.here, shared.there, shared.there, shared.here)):
            answer = on.open(deepLink=FB_PROMO, installId=f"install-of-number-{number}", appVersion="2.4")
            answered_at = time.monotonic()
            shown, came_at = follower.next()
            assert came_at - answered_at < 1
            assert shown["openId"] == answer["openId"]
            assert (shown["screen"], shown["outcome"]) == ("product", "matched")
            assert (shown["matchType"], shown["linkKey"], shown["appVersion"]) == (
                "deep_link",
                "fb-promo",
                "2.4",
            )


def test_nothing_personal_is_sent(shared: World) -> None:
    with following(shared.here) as follower:
        body = {"deepLink": FB_PROMO, "installId": ANNA, "clipboard": "a secret"}
        shared.there.http.post("/v1/opens", json=body, headers={"X-Forwarded-For": HOME})
        shown, _ = follower.next()
        assert shown["linkKey"] == "fb-promo"
        for personal in (ANNA, HOME, "anna@example.com", "secret", "CFNetwork", "/product/123"):
            assert personal not in follower.text


def test_filters(shared: World) -> None:
    with (
        following(shared.here, match="none") as unmatched,
        following(shared.there, outcome="matched") as matched,
    ):
        organic = shared.there.open(installId="install-of-filters-1")
        linked = shared.here.open(deepLink=FB_PROMO, installId="install-of-filters-2")
        assert unmatched.next()[0]["openId"] == organic["openId"]
        assert matched.next()[0]["openId"] == linked["openId"]
        shared.there.open(deepLink=FB_PROMO, installId="install-of-filters-3")
        last = shared.there.open(installId="install-of-filters-4")
        again, _ = unmatched.next()
        while again["openId"] == organic["openId"]:  # it was pending for a moment
            again, _ = unmatched.next()
        assert again["openId"] == last["openId"]


@pytest.mark.parametrize(
    ("headers", "query", "status", "message"),
    [
        ({"Authorization": "Bearer dub_pk_acme"}, {}, 403, "server key"),
        ({"Authorization": "Bearer nobody's"}, {}, 401, "no app has this"),
        (AS_SERVER, {"match": "magic"}, 422, "match: expected one of"),
        (AS_SERVER, {"outcome": "lost"}, 422, "outcome: expected one of"),
        (AS_SERVER, {"testDevice": "me"}, 422, "testDevice: expected the name"),
    ],
)
def test_refusals(
    shared: World, headers: dict[str, str], query: dict[str, str], status: int, message: str
) -> None:
    reply = httpx.get(f"{shared.here.base}/v1/opens/live", headers=headers, params=query)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]


def test_a_follower_that_was_disconnected_misses_nothing(shared: World) -> None:
    with following(shared.here) as follower:
        first = shared.here.open(deepLink=FB_PROMO, installId="install-of-resume-1")
        assert follower.next()[0]["openId"] == first["openId"]
        last_id = follower.last_id
    missed = shared.there.open(deepLink=FB_PROMO, installId="install-of-resume-2")
    recalled = shared.here.http.get(f"/v1/opens/{missed['openId']}")  # waits until it is in the database
    assert recalled.status_code == 200
    with following(shared.there, {"Last-Event-ID": last_id}) as follower:
        shown = follower.next()[0]["openId"]
        while shown != missed["openId"]:  # those of the last seconds before come again
            shown = follower.next()[0]["openId"]


def test_followers_are_bounded_and_leave_their_places(shared: World) -> None:
    until(lambda: shared.here.metric("firstopen_live_watchers") == 0)
    with ExitStack() as stack:
        followers = [stack.enter_context(following(shared.here)) for _ in range(WATCHERS_MAX)]
        reply = httpx.get(f"{shared.here.base}/v1/opens/live", headers=AS_SERVER)
        assert reply.status_code == 429
        assert reply.headers["Retry-After"]
        assert f"{WATCHERS_MAX} connections follow live opens" in reply.json()["error"]["message"]
        followers[0].leave()
        until(lambda: shared.here.metric("firstopen_live_watchers") == WATCHERS_MAX - 1)
        opened = shared.there.open(deepLink=FB_PROMO, installId="install-of-many")
        for each in followers[1:]:
            shown = each.next()[0]["openId"]
            while shown != opened["openId"]:  # those of the seconds before may come first
                shown = each.next()[0]["openId"]
    until(lambda: shared.here.metric("firstopen_live_watchers") == 0)


def test_a_stop_waits_for_no_follower(shared: World) -> None:
    """The last test of this file: it stops a replica."""
    with ExitStack() as stack:
        followers = [stack.enter_context(following(shared.there)) for _ in range(5)]
        began = time.monotonic()
        assert shared.there.process.stop() == 0
        assert time.monotonic() - began < 5
        for each in followers:
            each.ends()
