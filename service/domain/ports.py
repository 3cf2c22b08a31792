"""What the decision needs from outside, owned here and filled by ``dub`` and ``store``."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from service.domain.clicks import SyncRound, UnreadEvent
from service.domain.device_traits import Traits
from service.domain.errors import FirstopenError
from service.domain.match_rules import Click, NetworkView, Retirement
from service.domain.models import App, Link, Open, OpenedLink
from service.domain.networks import Networks
from service.domain.open_context import OpenContext
from service.domain.open_listing import OpenPage, Position
from service.domain.outbox_entries import (
    Added,
    DeliveryResult,
    Entry,
    Kind,
    QueuedOpen,
    Repeat,
    State,
    Status,
    TakenEntry,
)
from service.domain.rate_limit_status import RateLimitStatus
from service.domain.trace import MatchAttempt


class Dub(Protocol):
    """Dub, asked about opens."""

    async def track_open(
        self,
        app: str,
        deep_link: str,
        *,
        user_agent: str,
        ip: str | None,
        queue_timeout_s: float,
        no_track: bool = False,
        replay: bool = False,
    ) -> OpenedLink:
        """Report an app's deep-link open (or, with ``no_track``, ask without a trace).

        A ``replay`` gives way to live calls and says nothing about Dub's health.

        Waits up to ``queue_timeout_s`` seconds for a free place.

        Raises ``DubLinkNotFound`` or a ``DubUnavailable``.
        """
        ...


class DubFirstOpens(Protocol):
    """A Dub that believes forwarded addresses, asked about an open with no link."""

    async def track_first_open(
        self, app: str, domain: str, *, user_agent: str, ip: str, queue_timeout_s: float, no_track: bool
    ) -> OpenedLink:
        """Report an open on a domain by its address; raises ``DubLinkNotFound`` or a ``DubUnavailable``."""
        ...


class DubConversions(Protocol):
    """Dub, told about leads and sales, with an app's Dub API key. Replies are Dub's JSON as it came."""

    async def track_lead(self, app: App, body: bytes, *, queue_timeout_s: float) -> bytes:
        """Send a lead; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...

    async def track_sale(self, app: App, body: bytes, *, queue_timeout_s: float) -> bytes:
        """Send a sale; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...


class EventStream(Protocol):
    """A page of events that is arriving."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the page's bytes as they come; raises a ``DubUnavailable`` if they stop."""
        ...

    async def aclose(self) -> None:
        """Give the connection back."""
        ...


class DubEvents(Protocol):
    """Dub, asked what happened."""

    async def events(self, app: App, query: str, *, queue_timeout_s: float) -> EventStream:
        """Ask for a page of events; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...


AnswerKey = bytes | str  # an answer's key, or the device whose first launch it answers


class OpenCache(Protocol):
    """What is remembered of opens and links; never raises, forgetting is allowed."""

    def answer(self, key: AnswerKey) -> Open | None:
        """Recall the open last answered under this key; it says until when it may be repeated."""
        ...

    def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id."""
        ...

    def keep(self, key: AnswerKey, opened: Open) -> None:
        """Remember an open, by its id and as the answer under its key."""
        ...

    def revise(self, opened: Open) -> None:
        """Remember a new version of an open, under every key that it answers; never a new open."""
        ...

    def link(self, domain: str, key: str) -> Link | None:
        """Recall a link that Dub described, days past its freshness."""
        ...

    def keep_link(self, domain: str, key: str, link: Link) -> Link:
        """Remember what Dub said a link is, until it says otherwise; return the one object of it."""
        ...

    def unknown_for_s(self, domain: str, key: str) -> float:
        """Return for how many seconds more Dub's "no such link" stands; 0 if it does not."""
        ...

    def keep_unknown(self, domain: str, key: str, asked: float) -> None:
        """Remember that Dub knows no such link, unless it described one since ``asked`` (clock seconds)."""
        ...


class Recalled(Protocol):
    """What the database knows of a device."""

    @property
    def answer(self) -> Open | None:
        """Return the open last answered under the key that was asked for; it says how long it is repeated."""
        ...

    @property
    def opens(self) -> list[Open]:
        """Return the device's telling opens, newest first: see ``OpenStore.of_device``."""
        ...


class OpenStore(Protocol):
    """Opens, durable. What is awaited raises ``StoreFailed``."""

    is_shared: bool  # whether other processes keep opens here, too

    def keep(self, key: bytes, opened: Open, network: int | None, traits: Traits | None) -> None:
        """Write an open down, soon, under the key that it answers; the same openId replaces it. Never raises.

        ``network`` is a keyed hash of where it came from; ``traits`` are its device's, if another install on
        that network must not be given the click that brought this one.
        """
        ...

    def revise(self, opened: Open) -> None:
        """Write down, soon, a new version of an open that was kept. Never raises."""
        ...

    async def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id."""
        ...

    async def recall(self, devices: Sequence[str], key: bytes) -> Recalled:
        """Recall a device's telling opens (under any of its names), and what it was answered under this key.

        For an open that waits: it takes 50 ms at most, and what was kept in the last moment may be missing.
        """
        ...

    async def of_device(self, devices: Sequence[str]) -> list[Open]:
        """Recall a device's telling opens (under any of its names), newest first.

        Those that say how the install came, those with a click, and others: the newest of each.
        """
        ...


class OpenPages(Protocol):
    """Opens of all replicas, in the order in which they came."""

    async def page(self, app: str, after: Position, limit: int) -> OpenPage:
        """Return an app's opens behind a position; raises ``StoreFailed``."""
        ...


class Claims(Protocol):
    """Which install a click was given to: durable, and one install's alone; raises ``StoreFailed``."""

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that have claimed any of these clicks, by click."""
        ...

    async def claim(self, click_id: str, install: str) -> bool:
        """Give a click to an install, if it is free or its own already; returns whether it is its own."""
        ...

    async def release(self, click_id: str, install: str) -> None:
        """Free a click, if it is the install's own."""
        ...


class NetworkActivity(Protocol):
    """The opens and clicks of an app by network."""

    def record_open(self, network: int, install: str, at_ms: int) -> None:
        """Note an open at a time (Unix milliseconds): whoever looks from now on counts it."""
        ...

    def record_install(self, network: int, retirement: Retirement) -> None:
        """Note an install that was found by certain evidence: whoever looks from now on hears of it."""
        ...

    async def view(self, network: int, install: str, at_ms: int) -> NetworkView:
        """Return what is known of a network, for an install that opened there; raises ``StoreFailed``."""
        ...


class IpMatcher(Protocol):
    """Finds the click of an install that opens with no link, by its address."""

    def record_open(self, context: OpenContext) -> None:
        """Note an open: it counts towards how crowded its network is."""
        ...

    def record_install(self, context: OpenContext, link: Link) -> None:
        """Note that an install came by this link: its web clicks are used up."""
        ...

    async def match(
        self,
        context: OpenContext,
        timeout_s: float,
        *,
        since: float,
        claim: bool,
        certain: Callable[[], Open | None],
    ) -> MatchAttempt:
        """Look for the click within ``timeout_s`` seconds, and claim it. Never raises.

        Only what Dub showed at ``since`` (clock seconds) or later makes a final "none". Nothing stays claimed
        once there is a ``certain`` open: stronger evidence has found the install's click.
        """
        ...


class Erasable(Protocol):
    """Where opens, claims or entries are kept."""

    async def forget(self, subject: Sequence[str], /) -> int:
        """Forget what is kept under these names, and return how much; raises ``StoreFailed``."""
        ...


class ErasableOpens(Erasable, Protocol):
    """Where opens are kept."""

    async def ids(self, devices: Sequence[str]) -> list[str]:
        """Return the ids of a device's opens; raises ``StoreFailed``."""
        ...


class KeptErasures(Protocol):
    """Erasures, durable; raises ``StoreFailed``."""

    async def load(self) -> Mapping[str, float]:
        """Return when devices were erased, in Unix seconds."""
        ...

    async def add(self, devices: Sequence[str], at: float) -> None:
        """Note that devices were erased at a time (Unix seconds)."""
        ...


class CallBudget(Protocol):
    """Calls of a workspace, counted by all replicas."""

    async def spend(self, workspace: str, per_s: int) -> None:
        """Take one call; raises ``OverBudget`` with the time after which there is one again."""
        ...


class EventPage(Protocol):
    """A page of Dub's events that is arriving."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the page from its beginning; raises the ``DubUnavailable`` that cut it short."""
        ...


class EventPages(Protocol):
    """Pages of Dub's events, as their JSON."""

    async def page(self, app: App, query: str) -> EventPage:
        """Return the page for a query, once its first bytes may be read.

        Raises ``NotConfigured``, ``OverBudget``, ``DubRefused`` or a ``DubUnavailable``.
        """
        ...


class ClickEvent(Protocol):
    """A click, as an event tells of it."""

    @property
    def click_id(self) -> str:
        """Return the click's id."""
        ...

    @property
    def at_ms(self) -> int:
        """Return when it was, in Unix milliseconds."""
        ...

    def seen(self, networks: Networks) -> tuple[int, Click] | None:
        """Return the key of its network and the click; ``None`` for a shared or unknown address."""
        ...


class ClickPage(Protocol):
    """A page of click events, newest first."""

    def __len__(self) -> int:
        """Return how many events the page has."""
        ...

    def slices(self) -> Iterator[Iterator[ClickEvent | UnreadEvent]]:
        """Yield the events in slices, each small enough for one turn of the event loop."""
        ...

    def ends_ms(self) -> tuple[int | None, int | None]:
        """Return when the first and the last event were (Unix milliseconds), where that can be read."""
        ...


class ClickSource(Protocol):
    """The provider's click events."""

    async def page(self, app: App, *, start_ms: int, end_ms: int, number: int, limit: int) -> ClickPage:
        """Return a page of an app's clicks between two times (Unix milliseconds), newest first.

        Raises ``NotConfigured``, ``OverBudget``, ``DubRefused`` or a ``DubUnavailable``.
        """
        ...


class WindowClicks(Protocol):
    """The stored clicks of an app, which all replicas share; raises ``StoreFailed``."""

    def sync_round(self) -> AbstractAsyncContextManager[SyncRound]:
        """Take the turn to sync, or wait until a sync that began after this call is finished elsewhere."""
        ...

    async def add(self, clicks: Sequence[tuple[int, Click]]) -> None:
        """Store clicks, each with its network."""
        ...


class RateLimitCheck(Protocol):
    """One request's way in."""

    rate_limit_status: RateLimitStatus | None

    async def check(self, ip: str | None) -> None:
        """Count the request, which comes from this address; raises ``RateLimited``."""
        ...


class RateLimiter(Protocol):
    """Where every request gets its way in."""

    def name_of(self, key: bytes) -> bytes:
        """Return what a key is counted under."""
        ...

    def rate_limit(self, app: str, key_name: bytes, *, by_address: bool) -> RateLimitCheck:
        """Return the way in of one request with this key of this app."""
        ...

    async def failed(self, ip: str | None) -> None:
        """Count an authentication that failed; raises ``RateLimited``."""
        ...


class Outbox(Protocol):
    """What must still reach Dub; sends it until Dub has it or refuses it."""

    async def submit(
        self, entry: Entry, *, wait_s: float, drops: Callable[[FirstopenError], bool]
    ) -> DeliveryResult | Repeat | None:
        """Write an entry down, send it, and wait for what becomes of its first attempt; ``None``: not yet.

        A lead that was reported before is not sent again: a ``Repeat``.

        An entry that fails with an error that it ``drops`` is forgotten: its caller hears of it.
        Raises ``StoreFailed``, and then nothing was written or sent.
        """
        ...

    async def abandon(self, entry_id: str) -> None:
        """Forget an entry whose caller is told that it failed."""
        ...

    async def status(self, entry_id: str) -> Status | None:
        """Say where a lead or sale stands; raises ``StoreFailed``."""
        ...

    def enqueue_open(self, queued: QueuedOpen, *, not_before_s: float = 0) -> None:
        """Write an open down, soon, to be reported to Dub later; never raises."""
        ...

    def confirm_open(self, open_id: str) -> None:
        """Take note that Dub has this open after all; what waited for its click may go."""
        ...

    def release_dependents(self, name: str, *, after_s: float = 0) -> None:
        """Send what waits for this open or install, so many seconds from now: it has its answer."""
        ...

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install; raises ``StoreFailed``."""
        ...

    async def has_waiting_in(self, ordering_key: str) -> bool:
        """Return True if an entry of this key waits for an open or install; raises ``StoreFailed``."""
        ...


class OutboxStore(Protocol):
    """The outbox's entries, durable. What is awaited raises ``StoreFailed``."""

    @property
    def is_failing(self) -> bool:
        """Return True while the database cannot be written to."""
        ...

    async def add(self, entry: Entry, *, leased: bool) -> Added | Repeat:
        """Commit an entry, under this replica's lease if it is to send it now.

        A lead that was reported before (see ``Entry.keys``), within ``REPEAT_S`` and as an entry that is not
        dead, is not kept: then this returns a ``Repeat``. Where the earlier entry waits for an install and
        this one waits for nothing, the earlier entry takes over what this one carries, and is due.
        """
        ...

    def enqueue_open(self, entry: Entry) -> None:
        """Keep an open, soon, to be reported later; an openId is queued once."""
        ...

    def confirm_open(self, open_id: str) -> None:
        """Forget, soon, an open's entry: Dub has it."""
        ...

    def release_dependents(self, name: str, at: float) -> None:
        """Make what waits for this open or install due at a time (Unix seconds), soon."""
        ...

    async def take_due(
        self, kind: Kind, apps: Sequence[str], limit: int, *, written: bool = False
    ) -> list[TakenEntry]:
        """Lease entries of these apps that may be tried now, each the first of its ordering key.

        Every app gets the same share of ``limit`` first, and what some do not need goes to the others.
        A look that finds nothing costs no commit, unless ``written``: then it sees what was written behind.
        """
        ...

    async def due_soon(self, kind: Kind, apps: Sequence[str], spread_s: float) -> None:
        """Make what failed before due within ``spread_s`` seconds: not all of it at once."""
        ...

    async def renew(self, entry_ids: Sequence[str]) -> None:
        """Keep the leases of entries that are being worked on."""
        ...

    async def take_over(self) -> None:
        """End the leases that an earlier process left in a file which this one has locked."""
        ...

    def give_back(self, entry_id: str, next_attempt_at: float) -> None:
        """End, soon, the lease of an entry that was not attempted; it is due at a time (Unix seconds)."""
        ...

    def reschedule(
        self, entry_id: str, next_attempt_at: float, reason: str, *, attempted: bool = True
    ) -> None:
        """Note, soon, when an entry is tried again (Unix seconds), and why not before.

        An entry that has expired meanwhile stays dead.
        """
        ...

    def finish(self, entry: Entry, state: State, reason: str) -> None:
        """Note, soon, that an entry is delivered (its payload goes) or dead (it stays, encrypted)."""
        ...

    async def remove(self, entry_id: str) -> None:
        """Forget an entry."""
        ...

    async def expire(self, before: float) -> int:
        """Make dead letters of what was queued before a time (Unix seconds).

        Deletes what was delivered longer ago than it is recognised, and very old dead letters. Returns how
        many entries died.
        """
        ...

    async def status(self, entry_id: str) -> Status | None:
        """Say where an entry stands."""
        ...

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install."""
        ...

    async def has_waiting_in(self, ordering_key: str) -> bool:
        """Return True if an entry of this key waits for an open or install."""
        ...

    async def depths(self, *states: State) -> dict[tuple[Kind, State], int]:
        """Count the entries in these states, by kind and state."""
        ...

    async def oldest(self) -> float | None:
        """Return when the oldest queued entry that waits for no open was made, in Unix seconds."""
        ...
