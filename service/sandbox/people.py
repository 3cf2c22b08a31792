"""Customers and their clicks, shared by leads and sales.

What can go wrong: a click of another workspace is accepted; a web click is found earlier than at Dub; a later
lead overwrites a customer's first click.
"""

from hashlib import sha256
from sqlite3 import Row
from typing import Any

import msgspec

from service.sandbox.clock import SandboxClock
from service.sandbox.errors import DubError, unprocessable
from service.sandbox.limits import SandboxSettings
from service.sandbox.links import random_text
from service.sandbox.store import Store

EXTERNAL_ID_MAX_CHARS = 100
_SIZES = ("Big", "Small", "Tall", "Tiny", "Wide", "Slim", "Grand", "Quick")
_COLOURS = ("Red", "Blue", "Green", "Amber", "Violet", "Silver", "Coral", "Teal")
_ANIMALS = ("Heron", "Otter", "Badger", "Falcon", "Lynx", "Marten", "Plover", "Newt")


class Customer(msgspec.Struct, frozen=True):
    """A stored customer; `external_id` is the id in the team's own system."""

    id: str
    external_id: str
    name: str | None
    email: str | None
    avatar: str | None
    click_id: str

    def view(self) -> dict[str, str | None]:
        """Return the customer as in the answers to leads and sales."""
        return {"name": self.name, "email": self.email, "avatar": self.avatar, "externalId": self.external_id}


class CustomerFields(msgspec.Struct, frozen=True):
    """The customer's fields in a request."""

    external_id: str
    name: str | None
    email: str | None
    avatar: str | None

    def view(self) -> dict[str, str | None]:
        """Return the customer as in the answers to leads and sales."""
        return {"name": self.name, "email": self.email, "avatar": self.avatar, "externalId": self.external_id}


class People:
    """The customers of every workspace."""

    def __init__(self, store: Store, clock: SandboxClock, settings: SandboxSettings) -> None:
        self.store = store
        self.clock = clock
        self._settings = settings

    def find(self, workspace: str, external_id: str) -> Customer | None:
        """Return a customer by external id, or None."""
        row = self.store.one(
            "SELECT id, external_id, name, email, avatar, click_id FROM customers"
            " WHERE workspace = ? AND external_id = ?",
            (workspace, external_id),
        )
        return Customer(*row) if row else None

    def create(self, workspace: str, fields: CustomerFields, click: Row) -> Customer:
        """Store a new customer with their first click, which never changes."""
        customer = Customer(
            id=f"cus_{random_text(25)}",
            external_id=fields.external_id,
            name=fields.name or _random_name(fields.external_id),
            email=fields.email,
            avatar=fields.avatar,
            click_id=click["id"],
        )
        self.store.run(
            "INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(
                    customer.id,
                    workspace,
                    customer.external_id,
                    customer.name,
                    customer.email,
                    customer.avatar,
                ),
                *(customer.click_id, click["country"], self.clock.now_ms()),
            ),
        )
        return customer

    def click(self, workspace: str, click_id: str) -> Row:
        """Return a click; raises a 404 if it is unknown, of another workspace, or too recent.

        An app's open is found immediately, a web click after `lead_lookup_delay_s`.
        """
        row = self.store.one("SELECT * FROM clicks WHERE id = ? AND workspace = ?", (click_id, workspace))
        found_from_ms = self.clock.now_ms() - int(self._settings.lead_lookup_delay_s * 1_000)
        if row is None or (row["trigger"] != "deeplink" and row["at"] > found_from_ms):
            raise DubError("not_found", f"no click event with clickId {click_id}")
        return row


def add_lead(people: People, customer: Customer, click: Row, name: str, metadata: str | None) -> None:
    """Record one lead event, and count it for its link."""
    people.store.run(
        "INSERT INTO leads VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(random_text(16), people.clock.now_ms(), click["workspace"], click["id"], click["link_id"]),
            *(customer.id, name, metadata),
        ),
    )
    people.store.run("UPDATE links SET leads = leads + 1 WHERE id = ?", (click["link_id"],))


def external_id_of(*given: str | None) -> str:
    """Return the first customer id that was sent; raises a 422 if any is out of bounds, or none was sent."""
    ids = [value for value in given if value is not None]
    if not ids or not all(1 <= len(value) <= EXTERNAL_ID_MAX_CHARS for value in ids):
        raise unprocessable(f"customerExternalId: expected 1 to {EXTERNAL_ID_MAX_CHARS} characters")
    return ids[0]


def _random_name(external_id: str) -> str:
    """Return a generated name, always the same one for the same customer."""
    digest = sha256(external_id.encode()).digest()
    words: list[tuple[Any, ...]] = [_SIZES, _COLOURS, _ANIMALS]
    return " ".join(pool[byte % len(pool)] for pool, byte in zip(words, digest, strict=False))
