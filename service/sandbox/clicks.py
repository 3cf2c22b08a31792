"""Recording clicks, by Dub's rules.

What can go wrong: the same person counted twice inside the hour; two people taken for one because only the
link was compared; a store-bound click handed to somebody on another address or domain, or after its hour.
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
    """The link as `/track/open` answers it."""

    id: str
    domain: str
    key: str
    url: str


class Deferred(msgspec.Struct, frozen=True):
    """A store-bound click that an app's first open may be matched to."""

    click_id: str
    link: OpenedLink


class ClickLog:
    """Every click, found again by who made it."""

    def __init__(self, store: Store, clock: SandboxClock) -> None:
        self._store = store
        self._clock = clock

    def record(self, link: Link, key: str, visitor: Visitor, *, trigger: str, url: str) -> tuple[str, bool]:
        """Record a click; return its id and whether it is new.

        `key` is the key as it was asked for. The same identity (IP and User-Agent) on the same domain and key
        within an hour of a recorded click gets that click again, and counts once.
        """
        now = self._clock.now_ms()
        domain = link.spec.domain
        held = self._store.one(
            "SELECT id FROM clicks WHERE identity = ? AND domain = ? AND key = ? AND at > ?"
            " ORDER BY at DESC LIMIT 1",
            (visitor.identity, domain, key, now - DEDUPLICATION_S * 1_000),
        )
        if held is not None:
            return held["id"], False
        click_id = random_text(CLICK_ID_CHARS)
        row: tuple[Any, ...] = (
            *(click_id, now, link.spec.workspace, link.id, domain, key, visitor.identity, trigger, url),
            *(visitor.shown_ip, visitor.country, visitor.region, visitor.city, visitor.continent),
            *(visitor.user_agent, hostname(visitor.referer) or DIRECT, visitor.referer or DIRECT),
        )
        with self._store.together():
            self._store.run(
                "INSERT INTO clicks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
            )
            self._store.run(
                "UPDATE links SET clicks = clicks + 1, last_clicked = ? WHERE id = ?", (now, link.id)
            )
        return click_id, True

    def remember_for_first_open(self, link: Link, click_id: str, visitor: Visitor) -> None:
        """Keep a store-bound click for the app that is about to be installed."""
        spec = link.spec
        opened = OpenedLink(link.id, spec.domain, spec.key, spec.url)
        self._store.run(
            "INSERT INTO deferred VALUES (?, ?, ?, ?, ?)",
            (visitor.ip, spec.domain, self._clock.now_ms(), click_id, msgspec.json.encode(opened).decode()),
        )

    def first_open(self, visitor: Visitor, domain: str) -> Deferred | None:
        """Return a store-bound click from this address on `domain` within the hour; it stays.

        Of clicks on several links it is any one, not the last: Dub takes the first key that a scan meets. Of
        clicks on one link it is the last. `domain` is a glob, as at Dub: `*` would match every domain.
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
    """Return where a scan meets this address's click on a link: anywhere, but always there."""
    return sha256(f"{ip}:{link.domain}:{link.key}".encode()).digest()
