"""Record clicks by Dub's rules.

What can go wrong: the same person is counted twice within the hour; two people count as one because only the
link is compared; a click on the way to a store is matched to an open from another address or domain, or after
its hour.
"""

from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import msgspec

from service.sandbox.clock import HOUR_S, SandboxClock
from service.sandbox.links import Link, random_text
from service.sandbox.store import Store
from service.sandbox.urls import hostname
from service.sandbox.web import Visitor

CLICK_ID_CHARS = 16
DEDUPLICATION_S = HOUR_S
DEFERRED_S = HOUR_S
DIRECT = "(direct)"


class OpenedLink(msgspec.Struct, frozen=True):
    """A link as in the answer of `/track/open`."""

    id: str
    domain: str
    key: str
    url: str


class Deferred(msgspec.Struct, frozen=True):
    """A click on the way to a store, which an app's first open may be matched to."""

    click_id: str
    link: OpenedLink


class ClickLog:
    """Stores clicks, and finds them by the visitor's identity or address."""

    def __init__(self, store: Store, clock: SandboxClock) -> None:
        self._store = store
        self._clock = clock

    def record(self, link: Link, key: str, visitor: Visitor, *, trigger: str, url: str) -> tuple[str, bool]:
        """Record a click; return its id and whether it is new.

        `key` is the key as the visitor sent it. A click with the same identity (IP and User-Agent), domain
        and key as one of the last hour is not recorded; the id of that one is returned.
        """
        now = self._clock.now_ms()
        domain = link.spec.domain
        existing = self._store.one(
            "SELECT id FROM clicks WHERE identity = ? AND domain = ? AND key = ? AND at > ?"
            " ORDER BY at DESC LIMIT 1",
            (visitor.identity, domain, key, now - DEDUPLICATION_S * 1_000),
        )
        if existing is not None:
            return existing["id"], False
        click_id = random_text(CLICK_ID_CHARS)
        row: tuple[Any, ...] = (
            *(click_id, now, link.spec.workspace, link.id, domain, key, visitor.identity, trigger, url),
            *(visitor.shown_ip, visitor.country, visitor.region, visitor.city, visitor.continent),
            *(visitor.user_agent, hostname(visitor.referer) or DIRECT, visitor.referer or DIRECT),
        )
        with self._store.transaction():
            self._store.run(
                "INSERT INTO clicks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
            )
            self._store.run(
                "UPDATE links SET clicks = clicks + 1, last_clicked = ? WHERE id = ?", (now, link.id)
            )
        return click_id, True

    def remember_for_first_open(self, link: Link, click_id: str, visitor: Visitor) -> None:
        """Store a click on the way to a store, for the first open of the app."""
        spec = link.spec
        opened = OpenedLink(link.id, spec.domain, spec.key, spec.url)
        self._store.run(
            "INSERT INTO deferred VALUES (?, ?, ?, ?, ?)",
            (visitor.ip, spec.domain, self._clock.now_ms(), click_id, msgspec.json.encode(opened).decode()),
        )

    def first_open(self, visitor: Visitor, domain: str) -> Deferred | None:
        """Return a click on the way to a store from this address on `domain` in the last hour, or None.

        The click remains stored. If there are clicks on several links, the result is an arbitrary one, not
        the latest: Dub takes the first key of a scan. Of clicks on one link, it is the latest. `domain` is a
        glob, as at Dub: `*` matches every domain.
        """
        rows = self._store.all(
            "SELECT domain, click_id, link FROM deferred WHERE ip = ? AND at > ?"
            " ORDER BY at DESC, rowid DESC",
            (visitor.ip, self._clock.now_ms() - DEFERRED_S * 1_000),
        )
        found = (
            Deferred(row["click_id"], msgspec.json.decode(row["link"], type=OpenedLink))
            for row in rows
            if fnmatchcase(row["domain"], domain)
        )
        return min(found, key=lambda deferred: _scan_order(visitor.ip, deferred.link), default=None)


def _scan_order(ip: str, link: OpenedLink) -> bytes:
    """Return a sort key for a click: an arbitrary order, as in Dub's scan, but always the same one."""
    return sha256(f"{ip}:{link.domain}:{link.key}".encode()).digest()
