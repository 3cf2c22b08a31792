"""Outbox entries: opens, leads and sales that must still be delivered."""

from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct

from service.domain.device_identity import Platform
from service.domain.errors import FirstopenError

DELAY_MAX_S = 900.0  # no attempt is put off for longer, whatever Dub asks

Kind = Literal["open", "lead", "sale"]
State = Literal["queued", "delivered", "dead"]


RENEW_EVERY_S = 3.0
UNDECRYPTABLE = "encrypted under a FIRSTOPEN_SECRET that is not listed"  # such an entry blocks no other
INSTALL = "install:"
REPEAT_S = 7 * 86_400.0  # for which a lead is recognised when it is reported again, as at Dub
NO_OPEN = "no open arrived"  # why a lead died that waited for an install


def install_name(device: str) -> str:
    """Return what a lead waits for whose install has reported no open yet: see ``Entry.depends_on_open``."""
    return INSTALL + device


class LeadKeys(Struct, frozen=True):
    """What a lead is recognised by when it is reported again, as keyed hashes. Empty: by nothing."""

    event: str = ""  # its customer and event
    idempotency: str = ""  # the caller's Idempotency-Key, …
    body: str = ""  # … and the body that came with it


class Entry(Struct, frozen=True, kw_only=True):
    """Something that Dub must hear of. Times are Unix seconds."""

    id: str
    app: str
    kind: Kind
    ordering_key: str  # entries with the same key are sent one after another
    # The openId whose click it needs, or the ``install_name`` of an install. It holds back no other entry of
    # its ordering key, and is tried now and then, in case nobody notes that its open is settled.
    depends_on_open: str = ""
    created: float
    next_try: float
    attempts: int = 0
    subject: str = ""  # a keyed hash of app and install, or an openId, where either is known
    keys: LeadKeys = LeadKeys()
    payload: bytes  # sealed by the store


class TakenEntry(Struct, frozen=True):
    """An entry under this replica's lease; ``entry`` is None if its payload cannot be decrypted."""

    id: str
    entry: Entry | None


class QueuedOpen(Struct, frozen=True, kw_only=True):
    """An open that Dub has not confirmed, with all that reporting it again as the same device takes."""

    open_id: str
    app: str
    key: bytes
    device: str
    evidence: Literal["deep_link", "dub_id", "install_referrer", "clipboard", "ip"] = "deep_link"
    deep_link: str
    url: str | None = None  # that was opened, and is routed as it is
    click_id: str = ""  # that the opened URL names
    doubt: str = ""  # why the evidence is not certain
    is_install: bool = False  # the device is one install's
    installed_at: float | None = None  # Unix seconds
    no_track: bool = False  # to be asked about only
    user_agent: str
    ip: str | None
    by_address: bool = False  # it may be matched by its address, should Dub know no such link
    arrived: float  # Unix seconds
    platform: Platform | None
    app_version: str | None


class Delivered(Struct, frozen=True):
    """Dub has it; ``answer`` is Dub's JSON."""

    answer: bytes = b""


class RetryLater(Struct, frozen=True):
    """Not this time. ``answer`` is what Dub said, where it said 200 and yet did not take it."""

    error: FirstopenError
    after_s: float | None = None  # as Dub asked; else by backoff
    answer: bytes = b""


class DeadLetter(Struct, frozen=True):
    """Refused for good, or too old; kept where an operator sees it."""

    reason: str
    error: FirstopenError | None = None
    organic: bool = False  # nothing went wrong: there is no click to credit


DeliveryResult = Delivered | RetryLater | DeadLetter


class Added(Struct, frozen=True):
    """A new entry; ``behind_another``: an earlier one of its ordering key goes first."""

    behind_another: bool


class Repeat(Struct, frozen=True):
    """The lead was reported before, as this entry."""

    entry_id: str
    state: State
    same_body: bool = True  # False: the Idempotency-Key came with another body then


class Status(Struct, frozen=True):
    """Where an entry stands, for whoever reported it."""

    app: str
    kind: Kind
    state: State
    reason: str


class Summary(Struct, frozen=True):
    """An entry as an operator sees it: nothing personal."""

    id: str
    app: str
    kind: Kind
    state: State
    created: float
    next_try: float
    attempts: int
    depends_on_open: str
    reason: str


Deliver = Callable[[Entry], Awaitable[DeliveryResult]]
