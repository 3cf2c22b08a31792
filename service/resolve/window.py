"""The clicks of an app's matching window, found by network.

What can go wrong: memory that grows with traffic (columns are shared, the oldest minute goes when the
window is full); a match or an expiry whose cost grows with the window and holds the event loop (a network
keeps its newest few, work is done in steps); a click counted twice or lost because events overlap or come
out of order (the id decides, times do not).

Nothing in the large dictionaries is tracked by the garbage collector: a collection that walked over a
million clicks would hold the loop for longer than all of our own steps.
"""

import heapq
from array import array
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from service.resolve.matching import SECOND_CLICK_S, Click
from service.resolve.model import Link

CLICKS_MAX = 1_000_000
CLICKS_PER_NETWORK_MAX = 64  # a network with more is a crowd, whoever opens from it
TEXT_MAX_BYTES = 100_000_000  # links and queries; beyond it queries go first, then the oldest clicks
EXPIRED_AT_A_TIME = 500

_SHARDS = 256  # a dictionary that grows copies itself: none may be large
_SLICE_MS = 60_000
_SLACK_S = SECOND_CLICK_S  # a claimed click uses up clicks that are up to so much younger
_QUERY_BYTES = 64  # of any string, beside its characters
_LINK_BYTES = 400  # of a link and its strings, beside their characters
_SHED_AT_A_TIME = 64
_ENTRIES_PER_ITEM = 2  # of one that was held in several minutes


class _Item(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def at_ms(self) -> int: ...


T = TypeVar("T", bound=_Item)


class _Several(Struct, Generic[T], frozen=True, gc=False):
    """A network's items, oldest first. A bare tuple would have its whole dictionary tracked."""

    items: tuple[T, ...]


class NetworkIndex(Generic[T]):
    """Items by network, and by the minute that they are of, so that they can be dropped when they are old."""

    def __init__(self, items_max: int, on_drop: Callable[[T], None] | None = None) -> None:
        self.floor_ms = 0  # nothing older is taken in: it is too old, or had to make room
        self._shed_ms = 0
        self._items_max = items_max
        self._on_drop = on_drop
        self._count = 0
        self._entries = 0
        self._shards: list[dict[int, T | _Several[T]]] = [{} for _ in range(_SHARDS)]
        self._slices: dict[int, array[int]] = {}  # the networks that items of a minute are on
        self._minutes: list[int] = []  # a heap

    def __len__(self) -> int:
        return self._count

    def get(self, network: int) -> tuple[T, ...]:
        """Return what is held of a network, oldest first."""
        held = self._shards[network % _SHARDS].get(network)
        if held is None:
            return ()
        return held.items if isinstance(held, _Several) else (held,)

    def add(self, network: int, item: T, kept_max: int) -> bool:
        """Hold an item in place of one with its id; only the newest ``kept_max`` of a network are kept.

        Returns whether it is held.
        """
        minute = item.at_ms // _SLICE_MS
        if item.at_ms < self.floor_ms or not self._make_room(minute):
            return False
        before = self.get(network)
        if before and (len(before) >= kept_max or before[-1].at_ms > item.at_ms or _has(before, item.id)):
            if not self._fit_in(network, before, item, kept_max):
                return False
        else:  # nearly always: one more, the newest
            self._shards[network % _SHARDS][network] = _Several((*before, item)) if before else item
            self._count += 1
        self._note(minute, network)
        return True

    def _fit_in(self, network: int, before: tuple[T, ...], item: T, kept_max: int) -> bool:
        held = [each for each in before if each.id != item.id]
        at = len(held)
        while at and held[at - 1].at_ms > item.at_ms:
            at -= 1
        held.insert(at, item)
        if len(held) > kept_max and held[0] is item:
            return False
        self._set(network, held[-kept_max:], len(before))
        self._tell([*(each for each in before if each.id == item.id), *held[:-kept_max]])
        return True

    def shed(self) -> None:
        """Give up the oldest minute, in small steps."""
        if self._minutes:
            self._shed_ms = (self._minutes[0] + 1) * _SLICE_MS
            self.floor_ms = max(self.floor_ms, self._shed_ms)
            self._drop(_SHED_AT_A_TIME)

    def expire(self, before_ms: int, at_most: int = EXPIRED_AT_A_TIME) -> bool:
        """Drop what is older; looks at ``at_most`` items and returns whether there may be more."""
        self.floor_ms = max(before_ms, self._shed_ms)
        return self._drop(at_most)

    def _make_room(self, minute: int) -> bool:
        """Return whether there is room, or the oldest minute is not this one and makes way (soon enough)."""
        if self._count < self._items_max and self._entries < _ENTRIES_PER_ITEM * self._items_max:
            return True
        if self._minutes[0] >= minute:
            return False
        self.shed()
        return True

    def _drop(self, at_most: int) -> bool:
        while self._minutes and (self._minutes[0] + 1) * _SLICE_MS <= self.floor_ms:
            networks = self._slices[self._minutes[0]]
            while networks:
                if at_most <= 0:
                    return True
                at_most -= 1
                self._entries -= 1
                self._expire_network(networks.pop())
            del self._slices[heapq.heappop(self._minutes)]
        return False

    def _expire_network(self, network: int) -> None:
        before = self.get(network)
        held = [each for each in before if each.at_ms >= self.floor_ms]
        if len(held) < len(before):
            self._set(network, held, len(before))
            self._tell([each for each in before if each.at_ms < self.floor_ms])

    def _set(self, network: int, held: list[T], before: int) -> None:
        shard = self._shards[network % _SHARDS]
        if held:
            shard[network] = held[0] if len(held) == 1 else _Several(tuple(held))
        else:
            shard.pop(network, None)
        self._count += len(held) - before

    def _tell(self, dropped: list[T]) -> None:
        if self._on_drop is not None:
            for each in dropped:
                self._on_drop(each)

    def _note(self, minute: int, network: int) -> None:
        networks = self._slices.get(minute)
        if networks is None:
            networks = self._slices[minute] = array("Q")
            heapq.heappush(self._minutes, minute)
        networks.append(network)
        self._entries += 1


class ClickWindow:
    """The clicks of one app, as long as they may be matched."""

    def __init__(
        self, window_s: int, *, clicks_max: int = CLICKS_MAX, text_max_bytes: int = TEXT_MAX_BYTES
    ) -> None:
        self.window_s = window_s
        self._index: NetworkIndex[Click] = NetworkIndex(clicks_max, self._forget)
        self._links: dict[str, Link] = {}
        self._uses: dict[str, int] = {}  # of a link, by clicks
        self._text_max_bytes = text_max_bytes
        self._text_bytes = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def held_from_ms(self) -> int:
        """Return the time from which on clicks are held: later than the window's, if that is too full."""
        return self._index.floor_ms

    def clicks(self, network: int) -> tuple[Click, ...]:
        """Return a network's clicks, oldest first: the newest ``CLICKS_PER_NETWORK_MAX``."""
        return self._index.get(network)

    def add(self, network: int, click: Click) -> bool:
        """Hold a click; returns whether it is new. One that is known, or older than what is held, is not."""
        if click.at_ms < self._index.floor_ms:
            return False
        if any(each.id == click.id for each in self._index.get(network)):
            return False
        held = self._interned(click)
        added = self._index.add(network, held, CLICKS_PER_NETWORK_MAX)
        if not added:
            self._forget(held)
        if self._text_bytes > self._text_max_bytes:
            self._index.shed()
        return added

    def expire(self, now_ms: int) -> bool:
        """Drop a step's worth of clicks that are too old; returns whether there may be more."""
        return self._index.expire(now_ms - (self.window_s + _SLACK_S) * 1000)

    def _interned(self, click: Click) -> Click:
        """Return the click with the one object of its link, without a query that there is no room for."""
        link = self._links.get(click.link.id)
        if link is None or link != click.link:
            self._text_bytes += _size_of(click.link) - (_size_of(link) if link else 0)
            link = self._links[click.link.id] = click.link
        self._uses[link.id] = self._uses.get(link.id, 0) + 1
        query = click.query
        if query:
            size = len(query) + _QUERY_BYTES
            query = "" if self._text_bytes + size > self._text_max_bytes else query
            self._text_bytes += size if query else 0
        if query is click.query and link is click.link:
            return click
        return Click(click.id, click.at_ms, link, query, click.device, click.opened_app)

    def _forget(self, click: Click) -> None:
        if click.query:
            self._text_bytes -= len(click.query) + _QUERY_BYTES
        link_id = click.link.id
        uses = self._uses[link_id] - 1
        if uses:
            self._uses[link_id] = uses
            return
        del self._uses[link_id]
        self._text_bytes -= _size_of(self._links.pop(link_id))


def _has(held: Sequence[_Item], name: str) -> bool:
    for each in held:  # noqa: SIM110  a generator takes three times as long
        if each.id == name:
            return True
    return False


def _size_of(link: Link) -> int:
    return _LINK_BYTES + len(link.key) + len(link.url or "")
