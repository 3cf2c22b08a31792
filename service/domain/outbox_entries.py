"""Outbox entries: opens, leads and sales for Dub, webhooks for backends, and the results of a delivery."""

from collections.abc import Awaitable, Callable
from typing import Literal, get_args

from msgspec import Struct, structs

from service.domain.device_identity import Platform
from service.domain.errors import FirstopenError
from service.domain.evidence import EvidenceType

DELAY_MAX_S = 900.0  # longest delay before the next attempt, even if Dub or a backend asks for a longer one

Kind = Literal["open", "lead", "sale", "webhook"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# An operator may give up a dead letter: it is "discarded", with the reason, and without its content.
State = Literal["queued", "delivered", "dead", "discarded"]

RENEW_EVERY_S = 3.0
UNDECRYPTABLE = "encrypted under a FIRSTOPEN_SECRET that is not listed"  # such an entry blocks no others
INSTALL = "install:"
OPEN_SETTLES = "settles:"
REPEAT_S = 7 * 86_400.0  # how long a repeated lead is recognised, as at Dub
DISCARD_REASON_MAX_CHARS = 200
NO_OPEN = "no open arrived"  # reason of a dead letter: a lead that waited for an install


def install_name(device: str) -> str:
    """Return the ``Entry.depends_on_open`` of a lead whose install has reported no open yet."""
    return INSTALL + device


def discard_reason(text: str) -> str | None:
    """Return why a dead letter is given up, as it is kept; None if the text is empty or not usable."""
    reason = text.strip()
    return reason if 1 <= len(reason) <= DISCARD_REASON_MAX_CHARS and reason.isprintable() else None


def settling_name(open_id: str) -> str:
    """Return the ``Entry.depends_on_open`` of a webhook that waits until an open is final.

    It is not an openId: leads are released by an open's click, this webhook is completed by its final answer.
    """
    return OPEN_SETTLES + open_id


class LeadKeys(Struct, frozen=True):
    """Keyed hashes by which a repeated lead is recognised. Empty ones are not compared."""

    event: str = ""  # customer and event name
    idempotency: str = ""  # the caller's Idempotency-Key
    body: str = ""  # the request body, to detect an Idempotency-Key that is reused with another body


class Entry(Struct, frozen=True, kw_only=True):
    """An open, lead or sale to deliver to Dub, or a webhook to a backend. Times are in Unix seconds."""

    id: str
    app: str
    kind: Kind
    ordering_key: str  # entries with the same key are sent one after another
    # The openId whose click this entry needs, the ``install_name`` of an install, or the ``settling_name`` of
    # an open. While it waits, it does not block other entries of its ordering key. It is tried at intervals,
    # in case the release is missed.
    depends_on_open: str = ""
    created: float
    next_try: float
    attempts: int = 0
    subject: str = ""  # a keyed hash of app and install, or an openId, where either is known
    keys: LeadKeys = LeadKeys()
    payload: bytes  # plain; the store encrypts it


class TakenEntry(Struct, frozen=True):
    """An entry that this replica has leased. ``entry`` is None if the payload cannot be decrypted."""

    id: str
    entry: Entry | None


class QueuedOpen(Struct, frozen=True, kw_only=True):
    """An open that Dub has not confirmed, with all data needed to report it again as the same device."""

    open_id: str
    app: str
    key: bytes
    device: str
    evidence: EvidenceType = "deep_link"
    deep_link: str
    url: str | None = None  # the URL that opened the app, if it is not a Dub link: it is routed unchanged
    click_id: str = ""  # the click id in the opened URL
    doubt: str = ""  # why the evidence is not certain
    is_install: bool = False  # the device is identified by an installId
    installed_at: float | None = None  # Unix seconds
    no_track: bool = False  # look up the link without recording a click
    user_agent: str
    ip: str | None
    by_address: bool = False  # match it by IP address if Dub does not know the link
    arrived: float  # Unix seconds
    platform: Platform | None
    app_version: str | None
    test_device: str | None = None


class Delivered(Struct, frozen=True):
    """Dub accepted the entry; ``answer`` is Dub's JSON. ``event`` is a webhook that reports it."""

    answer: bytes = b""
    event: Entry | None = None


class RetryLater(Struct, frozen=True):
    """The attempt failed and is repeated. ``answer`` is Dub's JSON if Dub sent 200 but recorded nothing."""

    error: FirstopenError
    after_s: float | None = None  # delay that Dub asked for; None: by backoff
    answer: bytes = b""


class DeadLetter(Struct, frozen=True):
    """The entry was refused permanently or is too old. It is kept for the operator."""

    reason: str
    error: FirstopenError | None = None
    organic: bool = False  # not an error: there is no click to credit
    event: Entry | None = None  # a webhook that reports it


DeliveryResult = Delivered | RetryLater | DeadLetter


class Added(Struct, frozen=True):
    """The entry is new. ``behind_another``: an earlier entry of its ordering key must be sent first."""

    behind_another: bool


class Repeat(Struct, frozen=True):
    """The lead was reported before; ``entry_id`` is the earlier entry."""

    entry_id: str
    state: State
    same_body: bool = True  # False: the earlier request had the same Idempotency-Key and another body


class Status(Struct, frozen=True):
    """An entry's state, for the caller that reported it."""

    app: str
    kind: Kind
    state: State
    reason: str


class Summary(Struct, frozen=True):
    """An entry for the operator, without personal data."""

    id: str
    app: str
    kind: Kind
    state: State
    created: float
    next_try: float
    attempts: int
    depends_on_open: str
    reason: str

    @property
    def waits_for(self) -> str:
        """Return what the entry waits for, for people to read."""
        if self.depends_on_open.startswith(INSTALL):
            return "an open of its install"
        if self.depends_on_open.startswith(OPEN_SETTLES):
            return f"the final answer of open {self.depends_on_open.removeprefix(OPEN_SETTLES)}"
        return f"open {self.depends_on_open}" if self.depends_on_open else "nothing"

    def explained(self, *, has_webhook: bool) -> "Summary":
        """Return the entry, with why it waits if it is a webhook of an app that has none in its settings."""
        if has_webhook or self.kind != "webhook" or self.state != "queued":
            return self
        return structs.replace(self, reason=f"apps.{self.app}.webhook is not configured")


Deliver = Callable[[Entry], Awaitable[DeliveryResult]]
ReportDeath = Callable[
    [Entry, str], Entry | None
]  # builds the webhook that reports a dead letter and its reason
