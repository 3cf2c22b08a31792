"""Every port: what the rules and use cases need from outside.

Implemented in ``dub``, ``storage``, ``matching``, ``outbox``, ``ratelimit`` and ``attribution``. Methods
that are not coroutines and change the database write behind: within 50 ms, in order.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from service.domain.calibration import Calibration, ShadowMatch
from service.domain.clicks import SyncRound, UnreadEvent
from service.domain.device_sessions import DeviceSession
from service.domain.device_traits import Traits
from service.domain.errors import FirstopenError
from service.domain.live_opens import Arrival, Repeated
from service.domain.match_rules import Click, NetworkView, Retirement
from service.domain.models import App, Link, Open, OpenedLink
from service.domain.networks import Network, Networks
from service.domain.open_context import OpenContext
from service.domain.open_listing import OpenPage, Position
from service.domain.outbox_entries import (
    Added,
    DeliveryResult,
    Entry,
    Kind,
    QueuedOpen,
    Repeat,
    ReportDeath,
    State,
    Status,
    Summary,
    TakenEntry,
)
from service.domain.rate_limit_status import RateLimitStatus
from service.domain.short_links import ShortLink, StoredLink
from service.domain.trace import MatchAttempt


class LinkProvider(Protocol):
    """The provider, asked about opens."""

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
        """Report an app's deep-link open. With ``no_track``, the provider records nothing.

        A ``replay`` has lower priority than live calls, and its result does not count for the circuit
        breaker. Waits up to ``queue_timeout_s`` seconds for a free place in the bulkhead.

        Raises ``DubLinkNotFound`` or a ``DubUnavailable``.
        """
        ...


class FirstOpenProvider(Protocol):
    """A provider that trusts forwarded addresses, asked about an open without a link."""

    async def track_first_open(
        self, app: str, domain: str, *, user_agent: str, ip: str, queue_timeout_s: float, no_track: bool
    ) -> OpenedLink:
        """Report an open on a domain by its address; raises ``DubLinkNotFound`` or a ``DubUnavailable``."""
        ...


class ConversionProvider(Protocol):
    """The provider, asked to record leads and sales. Replies are its JSON, unchanged."""

    async def track_lead(self, app: App, body: bytes, *, queue_timeout_s: float) -> bytes:
        """Send a lead; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...

    async def track_sale(self, app: App, body: bytes, *, queue_timeout_s: float) -> bytes:
        """Send a sale; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...


class ShortLinkProvider(Protocol):
    """The provider, asked to create short links."""

    async def create_link(self, app: App, body: bytes, *, queue_timeout_s: float) -> ShortLink:
        """Create a link; raises ``DubRefused`` (409: it exists already) or a ``DubUnavailable``."""
        ...

    async def find_link(self, app: App, external_id: str, *, queue_timeout_s: float) -> ShortLink:
        """Return the link with this external id; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...


class KeptLinks(Protocol):
    """The stored short links. Times are Unix seconds. Raises ``StoreFailed``."""

    async def find(self, app: str, names: Sequence[str]) -> StoredLink | None:
        """Return the link that is stored under one of these names."""
        ...

    async def add(self, app: str, name: str, device: str | None, template: str, at: float) -> None:
        """Commit that a link is asked for, once for each name."""
        ...

    async def earlier(self, app: str, name: str, device: str, template: str, at: float, since: float) -> int:
        """Count the links of an install and template that were asked for before this one."""
        ...

    async def complete(self, app: str, name: str, link: ShortLink) -> None:
        """Commit what was created, if the request is still stored."""
        ...

    async def give_up(self, app: str, name: str) -> None:
        """Delete a request that was refused."""
        ...


class EventStream(Protocol):
    """A page of events that is being received."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the page's bytes as they come; raises a ``DubUnavailable`` if they stop."""
        ...

    async def aclose(self) -> None:
        """Release the connection."""
        ...


class EventProvider(Protocol):
    """The provider's events."""

    async def events(self, app: App, query: str, *, queue_timeout_s: float) -> EventStream:
        """Ask for a page of events; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...


AnswerKey = bytes | str  # an answer's key, or the device whose first launch it answers


class OpenCache(Protocol):
    """Opens and links in memory. Never raises; may evict entries at any time."""

    def answer(self, key: AnswerKey) -> Open | None:
        """Return the open last answered under this key; ``repeat_until`` says how long it may be repeated."""
        ...

    def opened(self, open_id: str) -> Open | None:
        """Return an open by its id."""
        ...

    def keep(self, key: AnswerKey, opened: Open) -> None:
        """Cache an open, by its id and as the answer under its key."""
        ...

    def revise(self, opened: Open) -> None:
        """Replace a cached open under all its keys; do nothing if it is not cached."""
        ...

    def link(self, domain: str, key: str) -> Link | None:
        """Return a cached link, even if it is stale by days."""
        ...

    def keep_link(self, domain: str, key: str, link: Link) -> Link:
        """Cache a link as the provider described it; return the shared instance."""
        ...

    def unknown_for_s(self, domain: str, key: str) -> float:
        """Return the remaining seconds of a cached "no such link"; 0 if there is none."""
        ...

    def keep_unknown(self, domain: str, key: str, asked: float) -> None:
        """Cache "no such link", unless the link was described since ``asked`` (clock seconds)."""
        ...


class Recalled(Protocol):
    """What the database knows of a device."""

    @property
    def answer(self) -> Open | None:
        """Return the open last answered under the given key."""
        ...

    @property
    def opens(self) -> list[Open]:
        """Return the device's deciding opens, newest first: see ``OpenStore.of_device``."""
        ...


class OpenStore(Protocol):
    """Durable opens. Coroutines raise ``StoreFailed``."""

    is_shared: bool  # whether other processes keep opens here, too

    def keep(self, key: bytes, opened: Open, network: int | None, traits: Traits | None) -> None:
        """Store an open under the key that it answers; replaces a row with the same openId. Never raises.

        ``network`` is a keyed hash of its network. ``traits`` are its device's, set if this install's click
        must not be matched to other installs of that network.
        """
        ...

    def revise(self, opened: Open) -> None:
        """Store a new version of an open. Never raises."""
        ...

    async def opened(self, open_id: str) -> Open | None:
        """Return an open by its id."""
        ...

    async def recall(self, devices: Sequence[str], key: bytes) -> Recalled:
        """Return a device's deciding opens and its last answer under this key; takes 50 ms at most.

        ``devices`` are the device's hashes, one for each secret. Opens of the last 50 ms may be missing.
        """
        ...

    async def of_device(self, devices: Sequence[str]) -> list[Open]:
        """Return a device's opens that decide credit, newest first.

        These are the newest with evidence of a first launch, the newest with a click, and the newest other.
        ``devices`` are the device's hashes, one for each secret.
        """
        ...


class OpenPages(Protocol):
    """Opens of all replicas, in the order in which they came."""

    async def page(self, app: str, after: Position, limit: int) -> OpenPage:
        """Return an app's opens after a position; raises ``StoreFailed``."""
        ...


class OpenHistory(Protocol):
    """Opens of all replicas, the newest first."""

    async def before(
        self, app: str, before: Position | None, match_type: str | None, limit: int
    ) -> tuple[list[Open], Position | None]:
        """Return an app's opens before a position, newest first, and where the rest continues.

        Reads a bounded number of rows, so it may return fewer opens, or none, although there are more; None
        if there are no more. Raises ``StoreFailed``.
        """
        ...


class LiveSource(Protocol):
    """Opens of all replicas, soon after they were answered. Raises ``StoreFailed``."""

    async def arrivals(self, app: str, since_ms: int, limit: int) -> list[Arrival]:
        """Return an app's opens from a time on, newest first."""
        ...

    async def several(self, open_ids: Sequence[str]) -> list[Open]:
        """Return opens by their ids, in any order."""
        ...

    async def of_test_devices(self, app: str, name: str, limit: int) -> list[Open]:
        """Return the latest opens of one test session, or of all if the name is empty, newest first."""
        ...


class OutboxDesk(Protocol):
    """The outbox, for the operator of an app. Raises ``StoreFailed``."""

    async def app_depths(self, app: str) -> Mapping[tuple[Kind, State], int]:
        """Count an app's entries, by kind and state."""
        ...

    async def listed(self, state: State, limit: int, app: str | None = None) -> list[Summary]:
        """Return entries of a state, oldest first."""
        ...

    async def concerning(self, app: str, names: Sequence[str]) -> list[Summary]:
        """Return the entries of these openIds and devices, and those that wait for them, oldest first."""
        ...

    async def retry_now(self, entry_id: str | None, app: str | None = None) -> int:
        """Queue a dead letter again, or all of them; return how many."""
        ...

    async def discard(self, entry_id: str, reason: str, app: str | None = None) -> bool:
        """Give up a dead letter and delete its content. Return False if there is no such dead letter."""
        ...


class Claims(Protocol):
    """Durable claims: a click belongs to at most one install. Raises ``StoreFailed``."""

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that have claimed any of these clicks, by click."""
        ...

    async def claim(self, click_id: str, install: str) -> bool:
        """Claim a click for an install. Return False if another install has it."""
        ...

    async def release(self, click_id: str, install: str) -> None:
        """Release a click, if the install has claimed it."""
        ...


class NetworkActivity(Protocol):
    """The opens and clicks of an app by network."""

    def record_open(self, network: int, install: str, at_ms: int) -> None:
        """Record an open at a time (Unix milliseconds); later ``view`` calls include it."""
        ...

    def record_install(self, network: int, retirement: Retirement) -> None:
        """Record an install that certain evidence has attributed; later ``view`` calls include it."""
        ...

    async def view(self, network: int, install: str, at_ms: int) -> NetworkView:
        """Return what is known of a network, for an install that opened there; raises ``StoreFailed``."""
        ...


class TouchStore(Protocol):
    """The touches of all apps, shared by all replicas. Raises ``StoreFailed``."""

    async def add(self, app: str, network: int, touch: Click, since_ms: int) -> bool:
        """Store a touch; return False if its network has too many since a time (Unix milliseconds)."""
        ...

    async def exist(self, app: str, since_ms: int) -> bool:
        """Return whether the app has touches since a time (Unix milliseconds)."""
        ...

    async def forget(self, devices: Sequence[str]) -> int:
        """Delete the touches that these devices have claimed, and return how many."""
        ...


class IpMatcher(Protocol):
    """Finds the click of an install that opens without a link, by its address."""

    def network_of(self, app: str, ip: str | None) -> Network:
        """Return the hashed network of an address."""
        ...

    def record_open(self, context: OpenContext) -> None:
        """Record an open, so that it counts for how crowded its network is."""
        ...

    def record_install(self, context: OpenContext, link: Link) -> None:
        """Record that an install came by this link, so that its web clicks are not matched again."""
        ...

    async def match(
        self,
        context: OpenContext,
        timeout_s: float,
        *,
        since: float,
        claim: bool,
        certain: Callable[[], Open | None],
        asks_dub: bool = True,
    ) -> MatchAttempt:
        """Find the click within ``timeout_s`` seconds, and claim it. Never raises.

        Unless ``asks_dub``, a visit that a page reported is matched without asking Dub about its link.

        A "none" is final only after a click sync that began at ``since`` (clock seconds) or later. If
        ``certain`` returns an open (stronger evidence has found the install's click), the claim is released.
        """
        ...


class Erasable(Protocol):
    """A store of opens, claims or outbox entries."""

    async def forget(self, subject: Sequence[str], /) -> int:
        """Delete the rows of these subjects, and return how many; raises ``StoreFailed``."""
        ...


class ErasableOpens(Erasable, Protocol):
    """A store of opens."""

    async def ids(self, devices: Sequence[str]) -> list[str]:
        """Return the ids of a device's opens; raises ``StoreFailed``."""
        ...


class KeptErasures(Protocol):
    """Durable erasures. Raises ``StoreFailed``."""

    async def load(self) -> Mapping[str, float]:
        """Return when devices were erased, in Unix seconds."""
        ...

    async def add(self, devices: Sequence[str], at: float) -> None:
        """Record that devices were erased at a time (Unix seconds)."""
        ...


class KeptSessions(Protocol):
    """Durable test sessions. Coroutines raise ``StoreFailed``."""

    async def add(self, session: DeviceSession) -> None:
        """Keep a new session."""
        ...

    async def active(self) -> list[DeviceSession]:
        """Return the sessions of all apps that have not expired, newest first."""
        ...

    async def end(self, app: str, name: str) -> bool:
        """Delete a session; return False if there is none with this name."""
        ...

    async def devices(self, app: str, name: str) -> list[str]:
        """Return the devices whose opens reported this name."""
        ...

    def repeated(self, app: str, name: str, open_id: str) -> None:
        """Record that a session's open was reported again. Never raises."""
        ...

    async def repeats(self, app: str, since_ms: int) -> list[Repeated]:
        """Return when opens of an app's test devices were reported again, from a time on."""
        ...

    async def forget_repeats(self, app: str, name: str) -> None:
        """Delete the records of repeated opens of a session."""
        ...


class KeptCalibration(Protocol):
    """The counts of shadow matches, of all replicas."""

    def add(self, app: str, matches: Sequence[ShadowMatch]) -> None:
        """Count an app's shadow matches. Never raises."""
        ...

    async def read(self, app: str, days: int = ...) -> Calibration:
        """Return how good an app's matching was in the last days; raises ``StoreFailed``."""
        ...


class KeptRates(Protocol):
    """What the apps' first opens say of their installs, on all replicas."""

    def add(self, app: str, counts: Mapping[str, int]) -> None:
        """Add to an app's counters. Never raises."""
        ...

    async def read(self) -> Mapping[str, Mapping[str, int]]:
        """Return the counters of the last days, by app and name; raises ``StoreFailed``."""
        ...


class CallBudget(Protocol):
    """A workspace's analytics calls, counted over all replicas."""

    async def spend(self, workspace: str, per_s: int) -> None:
        """Take one call; raises ``OverBudget`` with the seconds until the next one is free."""
        ...


class EventPage(Protocol):
    """A page of events that is being received."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the page from its beginning; raises the ``DubUnavailable`` that cut it short."""
        ...


class EventPages(Protocol):
    """Pages of the provider's events, as JSON."""

    async def page(self, app: App, query: str) -> EventPage:
        """Return the page of a query as soon as its first bytes have arrived.

        Raises ``NotConfigured``, ``OverBudget``, ``DubRefused`` or a ``DubUnavailable``.
        """
        ...


class ClickEvent(Protocol):
    """A click event."""

    @property
    def click_id(self) -> str:
        """Return the click's id."""
        ...

    @property
    def at_ms(self) -> int:
        """Return the time of the click in Unix milliseconds."""
        ...

    def seen(self, networks: Networks) -> tuple[int, Click] | None:
        """Return its network's hash and the click; ``None`` for a shared or unknown address."""
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
        """Return the times of the first and last event (Unix milliseconds); ``None`` where unreadable."""
        ...


class ClickSource(Protocol):
    """The provider's click events."""

    async def page(
        self, app: App, *, start_ms: int, end_ms: int, number: int, limit: int, begins_sync: bool
    ) -> ClickPage:
        """Return a page of an app's clicks between two times (Unix milliseconds), newest first.

        ``begins_sync``: it is the first page that this sync reads. Raises ``NotConfigured``, ``OverBudget``,
        ``DubRefused`` or a ``DubUnavailable``.
        """
        ...


class WindowClicks(Protocol):
    """The stored clicks of an app, shared by all replicas. Raises ``StoreFailed``."""

    def sync_round(self) -> AbstractAsyncContextManager[SyncRound]:
        """Take the sync lease, or wait for another replica's sync that began after this call."""
        ...

    async def add(self, clicks: Sequence[tuple[int, Click]]) -> None:
        """Store clicks, each with its network's hash."""
        ...


class RateLimitCheck(Protocol):
    """The rate-limit check of one request."""

    rate_limit_status: RateLimitStatus | None

    async def check(self, ip: str | None) -> None:
        """Count the request from this address; raises ``RateLimited``."""
        ...


class RateLimiter(Protocol):
    """Creates the rate-limit check of each request."""

    def name_of(self, key: bytes) -> bytes:
        """Return the hash under which a key is counted."""
        ...

    def rate_limit(self, app: str, key_name: bytes, *, by_address: bool) -> RateLimitCheck:
        """Return the check for one request with this key of this app."""
        ...

    async def failed(self, ip: str | None) -> None:
        """Count a failed authentication; raises ``RateLimited``."""
        ...


class Outbox(Protocol):
    """Delivers opens, leads and sales to the provider, and webhooks to backends, with retries."""

    async def submit(
        self, entry: Entry, *, wait_s: float, drops: Callable[[FirstopenError], bool]
    ) -> DeliveryResult | Repeat | None:
        """Commit an entry, send it, and return the first attempt's result; ``None`` after ``wait_s`` seconds.

        A lead that was reported before is not sent again: returns a ``Repeat``. If ``drops(error)`` is true
        for the attempt's error, the entry is deleted, because the caller reports the error.
        Raises ``StoreFailed``; then nothing was written or sent.
        """
        ...

    async def abandon(self, entry_id: str) -> None:
        """Delete an entry whose caller has been answered with an error."""
        ...

    async def status(self, entry_id: str) -> Status | None:
        """Return the state of a lead or sale; raises ``StoreFailed``."""
        ...

    def enqueue_open(self, queued: QueuedOpen, *, not_before_s: float = 0) -> None:
        """Queue an open to be reported later; never raises."""
        ...

    def confirm_open(self, open_id: str) -> None:
        """Delete an open's entry, because the provider has it, and release the entries that wait for it."""
        ...

    def enqueue_webhook(self, entry: Entry) -> None:
        """Queue a webhook, once for each id; never raises."""
        ...

    async def add_webhook(self, entry: Entry) -> None:
        """Commit a webhook, once for each id; raises ``StoreFailed``."""
        ...

    def release_dependents(self, name: str, *, after_s: float = 0) -> None:
        """Release the entries that wait for this open or install, ``after_s`` seconds from now."""
        ...

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install; raises ``StoreFailed``."""
        ...

    async def has_waiting_in(self, ordering_key: str) -> bool:
        """Return True if an entry of this key waits for an open or install; raises ``StoreFailed``."""
        ...


class OutboxStore(Protocol):
    """Durable outbox entries. Coroutines raise ``StoreFailed``."""

    @property
    def is_failing(self) -> bool:
        """Return True while the database cannot be written to."""
        ...

    async def add(self, entry: Entry, *, leased: bool) -> Added | Repeat:
        """Commit an entry; ``leased`` if this replica sends it now.

        If an entry with the same ``keys`` is younger than ``REPEAT_S`` and not dead, return a ``Repeat``
        instead. If that entry waits for an install and this one does not, it takes over this one's payload
        and becomes due.
        """
        ...

    def enqueue_open(self, entry: Entry) -> None:
        """Queue an open to be reported later; an openId is queued once."""
        ...

    def confirm_open(self, open_id: str) -> None:
        """Delete an open's entry, because the provider has it."""
        ...

    def release_dependents(self, name: str, at: float) -> None:
        """Make the entries that wait for this open or install due at a time (Unix seconds)."""
        ...

    async def take_due(
        self, kind: Kind, apps: Sequence[str], limit: int, *, written: bool = False
    ) -> list[TakenEntry]:
        """Lease entries of these apps that are due, each the first of its ordering key.

        Each app gets an equal share of ``limit``; unused shares go to the other apps. An empty result costs
        no commit, unless ``written`` asks to include what was written behind.
        """
        ...

    def enqueue_webhook(self, entry: Entry) -> None:
        """Queue a webhook, once for each id; one that waits for no open completes one that does."""
        ...

    async def add_webhook(self, entry: Entry) -> None:
        """Commit a webhook, as ``enqueue_webhook`` does."""
        ...

    async def due_soon(self, kind: Kind, apps: Sequence[str], spread_s: float) -> None:
        """Spread the retries of failed entries over the next ``spread_s`` seconds."""
        ...

    async def renew(self, entry_ids: Sequence[str]) -> None:
        """Renew the leases of entries that are being sent."""
        ...

    async def take_over(self) -> None:
        """End the leases of earlier processes in a database that only this process uses.

        Call it before entries are added.
        """
        ...

    def give_back(self, entry_id: str, next_attempt_at: float) -> None:
        """End the lease of an entry that was not attempted; it is due at a time (Unix seconds)."""
        ...

    def reschedule(
        self, entry_id: str, next_attempt_at: float, reason: str, *, attempted: bool = True
    ) -> None:
        """Set an entry's next attempt (Unix seconds), with the last error as ``reason``.

        An entry that has expired meanwhile stays dead.
        """
        ...

    def finish(self, entry: Entry, state: State, reason: str, event: Entry | None = None) -> None:
        """Mark an entry delivered (its payload is deleted) or dead (its payload stays, encrypted).

        ``event`` is a webhook that reports it, committed together with it.
        """
        ...

    async def remove(self, entry_id: str) -> None:
        """Delete an entry."""
        ...

    async def expire(
        self, before: float, *, webhooks_before: float, report: ReportDeath | None = None
    ) -> int:
        """Make dead letters of entries queued before a time (Unix seconds); return how many.

        Webhooks have a time of their own. ``report`` builds the webhook that reports a lead.

        Also deletes delivered entries older than the deduplication window, and old dead letters.
        """
        ...

    async def status(self, entry_id: str) -> Status | None:
        """Return the state of an entry."""
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

    async def oldest(self) -> dict[Kind, float]:
        """Return when the oldest queued entry of each kind that waits for no open was made (Unix seconds)."""
        ...
