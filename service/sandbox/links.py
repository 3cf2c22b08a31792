"""Short links: what a test declares, and the book they are looked up in.

A link is kept as one JSON document (`SandboxLink`) beside the few columns it is found and counted by, so
that a new field is one line. A deleted link stays as a row: events of the past still point at it.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from secrets import token_bytes
from sqlite3 import Row
from string import ascii_letters, digits
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from service.sandbox.clock import SandboxClock, iso
from service.sandbox.domains import DomainBook, plain_domain
from service.sandbox.errors import DubError
from service.sandbox.store import Store
from service.sandbox.urls import ROOT_KEY, short_link

WORKSPACE = "ws_sandbox"
KEY_CHARS = 7
_ALPHABET = ascii_letters + digits


class SandboxDiscount(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a partner's link gives its customers: percent, or cents; `max_duration` in months."""

    id: str
    amount: int
    type: Literal["percentage", "flat"] = "percentage"
    max_duration: int | None = None


class SandboxLink(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A short link; in JSON and TOML the names are Dub's (`externalId`, `expiresAt`, `utm_source`).

    `key` "_root" is the domain's own page. `ios` and `android` are where those phones go instead of `url`;
    when that is a store page, the click is remembered for an hour for the app's first open. A naive
    `expires_at` is UTC.
    """

    domain: str
    key: str
    url: str
    ios: str | None = None
    android: str | None = None
    id: str | None = None
    workspace: str = WORKSPACE
    external_id: str | None = None
    tenant_id: str | None = None
    program_id: str | None = None
    partner_id: str | None = None
    discount: SandboxDiscount | None = None
    folder_id: str | None = None
    group_id: str | None = None
    tag_ids: tuple[str, ...] = ()
    title: str | None = None
    description: str | None = None
    comments: str | None = None
    track_conversion: bool = False
    archived: bool = False
    disabled: bool = False
    expires_at: datetime | None = None
    expired_url: str | None = None
    password: str | None = None
    utm_source: str | None = msgspec.field(default=None, name="utm_source")
    utm_medium: str | None = msgspec.field(default=None, name="utm_medium")
    utm_campaign: str | None = msgspec.field(default=None, name="utm_campaign")
    utm_term: str | None = msgspec.field(default=None, name="utm_term")
    utm_content: str | None = msgspec.field(default=None, name="utm_content")

    def expired(self, now_s: float) -> bool:
        """Tell whether the link's time is over."""
        moment = self.expires_at
        if moment is None:
            return False
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() <= now_s


class Link(msgspec.Struct, frozen=True):
    """A link that is in the book."""

    id: str
    spec: SandboxLink


class LinkBook:
    """Every link, found by (domain, key), by id or by the team's own id."""

    def __init__(
        self,
        store: Store,
        clock: SandboxClock,
        domains: DomainBook,
        case_sensitive: Collection[str] = (),
    ) -> None:
        self._store = store
        self._clock = clock
        self._domains = domains
        self._case_sensitive = frozenset(case_sensitive)
        self._decoder = msgspec.json.Decoder(SandboxLink)

    def find(self, domain: str, key: str) -> Link | None:
        """Return the link, whatever its key's case unless the domain is case-sensitive."""
        row = self._store.one(
            "SELECT id, doc FROM links WHERE domain = ? AND lookup = ? AND NOT deleted",
            (domain, self._lookup(domain, key)),
        )
        return Link(row["id"], self._decoder.decode(row["doc"])) if row else None

    def by_id(self, link_id: str) -> Link | None:
        """Return the link with this id, or with this `ext_`-prefixed own id, unless it was deleted."""
        where = "id = ?"
        if link_id.startswith("ext_"):
            where, link_id = "json_extract(doc, '$.externalId') = ?", link_id.removeprefix("ext_")
        row = self._store.one(f"SELECT id, doc FROM links WHERE {where} AND NOT deleted", (link_id,))  # noqa: S608  `where` is one of two constants
        return Link(row["id"], self._decoder.decode(row["doc"])) if row else None

    def seed(self, links: Sequence[SandboxLink]) -> None:
        """Put the given links in the book; one that a data file already holds is brought up to date."""
        for spec in links:
            held = self.find(spec.domain.lower(), _plain_key(spec.key))
            if held is None:
                self.add(spec)
            else:
                self.change(held.id, spec)

    def add(self, spec: SandboxLink) -> Link:
        """Add a link; 409 when its domain and key, or its ids, are taken."""
        spec = self._cleaned(spec)
        link_id = spec.id or f"link_{random_text(25)}"
        if self.find(spec.domain, spec.key) or self._id_taken(link_id, spec):
            raise DubError("conflict", f"a link {spec.domain}/{spec.key}, or with its id, exists already")
        now = self._clock.now_ms()
        self._store.run(
            "INSERT INTO links (id, workspace, domain, key, lookup, doc, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (link_id, *self._columns(spec), now, now),
        )
        self._domains.ensure(spec.domain)
        return Link(link_id, spec)

    def change(self, link_id: str, spec: SandboxLink) -> Link:
        """Replace a link's fields; 409 when another link has its new domain and key."""
        spec = self._cleaned(spec)
        other = self.find(spec.domain, spec.key)
        if other is not None and other.id != link_id:
            raise DubError("conflict", f"a link {spec.domain}/{spec.key} exists already")
        self._store.run(
            "UPDATE links SET workspace = ?, domain = ?, key = ?, lookup = ?, doc = ?, updated_at = ?"
            " WHERE id = ?",
            (*self._columns(spec), self._clock.now_ms(), link_id),
        )
        self._domains.ensure(spec.domain)
        return Link(link_id, spec)

    def delete(self, link_id: str) -> None:
        """Take a link out; its events stay, and `/events` drops them after paging."""
        self._store.run("UPDATE links SET deleted = 1 WHERE id = ?", (link_id,))

    def view(self, link_id: str) -> dict[str, Any]:
        """Return a link as Dub's API shows it, with its counters."""
        row = self._store.one("SELECT * FROM links WHERE id = ?", (link_id,))
        if row is None:
            raise LookupError(link_id)
        return _view(row, self._decoder.decode(row["doc"]))

    def _lookup(self, domain: str, key: str) -> str:
        return key if domain in self._case_sensitive else key.lower()

    def _cleaned(self, spec: SandboxLink) -> SandboxLink:
        key = _plain_key(spec.key)
        return msgspec.structs.replace(spec, domain=plain_domain(spec.domain), key=key)

    def _columns(self, spec: SandboxLink) -> tuple[str, ...]:
        lookup = self._lookup(spec.domain, spec.key)
        return spec.workspace, spec.domain, spec.key, lookup, msgspec.json.encode(spec).decode()

    def _id_taken(self, link_id: str, spec: SandboxLink) -> bool:
        if self._store.one("SELECT 1 FROM links WHERE id = ?", (link_id,)):
            return True
        return spec.external_id is not None and self.by_id(f"ext_{spec.external_id}") is not None


def random_text(length: int) -> str:
    """Return random letters and digits: an id, a click id, a key."""
    return "".join([_ALPHABET[byte % len(_ALPHABET)] for byte in token_bytes(length)])


def _plain_key(key: str) -> str:
    return unquote(key).strip("/") or ROOT_KEY


def _view(row: Row, spec: SandboxLink) -> dict[str, Any]:
    """Write a link with every field that Dub's clients require, null where the sandbox has no such thing."""
    shown: dict[str, Any] = msgspec.to_builtins(spec)
    for ours in ("workspace", "disabled", "tagIds", "groupId", "discount"):
        del shown[ours]
    address = short_link(spec.domain, spec.key)
    last_clicked = row["last_clicked"]
    absent = ("image", "video", "geo", "userId", "testVariants", "testStartedAt", "testCompletedAt")
    return shown | {
        "id": row["id"],
        "shortLink": address,
        "qrCode": f"https://api.dub.co/qr?url={address}",
        "tags": [{"id": tag, "name": tag, "color": "blue"} for tag in spec.tag_ids],
        "tagId": next(iter(spec.tag_ids), None),
        "disabledAt": iso(row["updated_at"]) if spec.disabled else None,
        "workspaceId": spec.workspace,
        "projectId": spec.workspace,
        "webhookIds": [],
        "clicks": row["clicks"],
        "leads": row["leads"],
        "conversions": row["conversions"],
        "sales": row["sales"],
        "saleAmount": row["sale_amount"],
        "lastClicked": iso(last_clicked) if last_clicked else None,
        "createdAt": iso(row["created_at"]),
        "updatedAt": iso(row["updated_at"]),
        **dict.fromkeys(("proxy", "rewrite", "doIndex", "publicStats"), False),
        **dict.fromkeys(absent),
    }
