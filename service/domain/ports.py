"""What the decision needs from outside, owned here and filled by ``dub`` and ``store``."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from service.domain.device_traits import Traits
from service.domain.match_rules import NetworkView, Retirement
from service.domain.models import App, Link, Open, OpenedLink
from service.domain.open_context import Case
from service.domain.open_listing import OpenPage, Position
from service.domain.trace import Look


class Dub(Protocol):
    """Dub, asked about opens."""

    async def track_open(
        self,
        app: str,
        deep_link: str,
        *,
        user_agent: str,
        ip: str | None,
        patience_s: float,
        no_track: bool = False,
        replay: bool = False,
    ) -> OpenedLink:
        """Report an app's deep-link open (or, with ``no_track``, ask without a trace).

        A ``replay`` gives way to live calls and says nothing about Dub's health.

        Waits up to ``patience_s`` seconds for its turn. Raises ``LinkUnknown`` or a ``DubUnavailable``.
        """
        ...


class DubFirstOpens(Protocol):
    """A Dub that believes forwarded addresses, asked about an open with no link."""

    async def track_first_open(
        self, app: str, domain: str, *, user_agent: str, ip: str, patience_s: float, no_track: bool
    ) -> OpenedLink:
        """Report an open on a domain by its address; raises ``LinkUnknown`` or a ``DubUnavailable``."""
        ...


class DubConversions(Protocol):
    """Dub, told about leads and sales, with an app's Dub API key. Replies are Dub's JSON as it came."""

    async def track_lead(self, app: App, body: bytes, *, patience_s: float) -> bytes:
        """Send a lead; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...

    async def track_sale(self, app: App, body: bytes, *, patience_s: float) -> bytes:
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

    async def events(self, app: App, query: str, *, patience_s: float) -> EventStream:
        """Ask for a page of events; raises ``DubRefused`` or a ``DubUnavailable``."""
        ...


class Memory(Protocol):
    """What is remembered of opens and links; never raises, forgetting is allowed."""

    def answer(self, key: bytes) -> Open | None:
        """Recall the open last answered under this key; it says until when it may be repeated."""
        ...

    def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id."""
        ...

    def keep(self, key: bytes, opened: Open) -> None:
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
        """Return the device's telling opens, newest first: see ``Journal.of_device``."""
        ...


class Journal(Protocol):
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

    def saw(self, network: int, install: str, at_ms: int) -> None:
        """Note an open at a time (Unix milliseconds): whoever looks from now on counts it."""
        ...

    def found(self, network: int, retirement: Retirement) -> None:
        """Note an install that was found by certain evidence: whoever looks from now on hears of it."""
        ...

    async def view(self, network: int, install: str, at_ms: int) -> NetworkView:
        """Return what is known of a network, for an install that opened there; raises ``StoreFailed``."""
        ...


class FirstLaunch(Protocol):
    """Finds the click of an install that opens with no link, by its address."""

    def saw(self, case: Case) -> None:
        """Note an open: it counts towards how crowded its network is."""
        ...

    def found(self, case: Case, link: Link) -> None:
        """Note that an install came by this link: its web clicks are used up."""
        ...

    async def look(
        self,
        case: Case,
        timeout_s: float,
        *,
        since: float,
        claim: bool,
        certain: Callable[[], Open | None],
    ) -> Look:
        """Look for the click within ``timeout_s`` seconds, and claim it. Never raises.

        Only what Dub showed at ``since`` (clock seconds) or later makes a final "none". Nothing stays claimed
        once there is a ``certain`` open: stronger evidence has found the install's click.
        """
        ...
