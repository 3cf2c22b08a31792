"""Short links: their fields, and their store.

A link is stored as one JSON document (`SandboxLink`), with columns only for looking it up and counting, so
that a new field is one line. The row of a deleted link stays, because past events refer to it.
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
    """The discount of a partner's link: `amount` in percent or cents; `max_duration` in months."""

    id: str
    amount: int
    type: Literal["percentage", "flat"] = "percentage"
    max_duration: int | None = None


class SandboxLink(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A short link; in JSON and TOML the names are Dub's (`externalId`, `expiresAt`, `utm_source`).

    The `key` "_root" is the domain's root page. `ios` and `android` are the destinations of those phones,
    instead of `url`; if that is a store page, the click is stored for an hour for the app's first open. An
    `expires_at` without an offset is in UTC.
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
        """Return True if the link has expired."""
        moment = self.expires_at
        if moment is None:
            return False
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() <= now_s


class Link(msgspec.Struct, frozen=True):
    """A stored link."""

    id: str
    spec: SandboxLink


class LinkBook:
    """Stores links, and finds them by domain and key, by id or by external id."""

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
        """Return a link, or None; the key's case is ignored unless the domain is case-sensitive."""
        row = self._store.one(
            "SELECT id, doc FROM links WHERE domain = ? AND lookup = ? AND NOT deleted",
            (domain, self._lookup(domain, key)),
        )
        return Link(row["id"], self._decoder.decode(row["doc"])) if row else None

    def by_id(self, link_id: str) -> Link | None:
        """Return the link with this id, or with this external id after `ext_`; None if it is deleted."""
        where = "id = ?"
        if link_id.startswith("ext_"):
            where, link_id = "json_extract(doc, '$.externalId') = ?", link_id.removeprefix("ext_")
        row = self._store.one(f"SELECT id, doc FROM links WHERE {where} AND NOT deleted", (link_id,))  # noqa: S608  `where` is one of two constants
        return Link(row["id"], self._decoder.decode(row["doc"])) if row else None

    def seed(self, links: Sequence[SandboxLink]) -> None:
        """Add the given links; update those that the data file already contains."""
        for spec in links:
            existing = self.find(spec.domain.lower(), _plain_key(spec.key))
            if existing is None:
                self.add(spec)
            else:
                self.change(existing.id, spec)

    def add(self, spec: SandboxLink) -> Link:
        """Add a link; raises a 409 if its domain and key, or its id or external id, exist already."""
        spec = self._cleaned(spec)
        link_id = spec.id or f"link_{random_text(25)}"
        if self.find(spec.domain, spec.key) or self._id_taken(link_id, spec):
            raise DubError("conflict", f"a link {spec.domain}/{spec.key}, or one with its id, exists already")
        now = self._clock.now_ms()
        self._store.run(
            "INSERT INTO links (id, workspace, domain, key, lookup, doc, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (link_id, *self._columns(spec), now, now),
        )
        self._domains.ensure(spec.domain)
        return Link(link_id, spec)

    def change(self, link_id: str, spec: SandboxLink) -> Link:
        """Replace a link's fields; raises a 409 if another link has its new domain and key."""
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
        """Mark a link as deleted; its events stay stored, and `/events` drops them after paging."""
        self._store.run("UPDATE links SET deleted = 1 WHERE id = ?", (link_id,))

    def view(self, link_id: str) -> dict[str, Any]:
        """Return a link as Dub's API shows it, with its counters; raises LookupError if it is unknown."""
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
    """Return random letters and digits, for ids, click ids and keys."""
    return "".join([_ALPHABET[byte % len(_ALPHABET)] for byte in token_bytes(length)])


def _plain_key(key: str) -> str:
    return unquote(key).strip("/") or ROOT_KEY


def _view(row: Row, spec: SandboxLink) -> dict[str, Any]:
    """Return a link with every field that Dub's clients require; null for those that the sandbox lacks."""
    shown: dict[str, Any] = msgspec.to_builtins(spec)
    for not_in_dub in ("workspace", "disabled", "tagIds", "groupId", "discount"):
        del shown[not_in_dub]
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
