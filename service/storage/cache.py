"""The in-process cache of answers and links, bounded by bytes.

The size of an entry is estimated from the size of typical objects and the characters of its strings. A full
cache drops the least recently used entries. Times of expiry are in the values, not in the cache, which halves
the memory and leaves few objects for the garbage collector.

What can go wrong: a caller with a publishable key fills the memory with 32,000-character links, or displaces
all other opens with them (opens with long URLs have a separate, small cache; long keys are hashed); opens of
an erased install are repeated (opens that are older than the erasure are never returned).
"""

from collections import OrderedDict
from collections.abc import Callable, ValuesView
from typing import Generic, TypeVar

from cachetools import LRUCache
from msgspec import Struct, structs

from service.domain.deep_links import link_name
from service.domain.models import Link, Open
from service.domain.ports import AnswerKey

_LONG_URL_CHARS = 1024
_LONG_SHARE, _LINKS_SHARE = 0.1, 0.1  # of all bytes, for opens with long URLs and for links
_OPEN_BYTES = 900  # of an open, without the characters of its strings
_LINK_BYTES = 500
_UNKNOWN_LINKS_MAX = 10_000  # names of a few hundred bytes
_USUAL_KEYS = 2  # per open: for what was opened, and for its device
_HOT_S = 1  # a link's date is not updated more often


K = TypeVar("K")
V = TypeVar("V")


class MemoryLimits(Struct, frozen=True, kw_only=True):
    """The size of the cache in bytes, and lifetimes in seconds."""

    bytes_max: int
    open_ttl_s: float
    link_ttl_s: float
    unknown_link_ttl_s: float


class Known(Struct, frozen=True, gc=False):
    """A link, and the time of Dub's last answer with it."""

    described: float
    link: Link


class MemoryOpenCache:
    """Implements ``ports.OpenCache``. ``clock`` returns monotonic seconds."""

    def __init__(
        self,
        limits: MemoryLimits,
        clock: Callable[[], float],
        erased: Callable[[str, float], bool] = lambda _device, _at: False,
    ) -> None:
        self._limits = limits
        self._erased = erased  # returns True if a device was erased at a time (Unix seconds) or later
        self._clock = clock
        total = limits.bytes_max
        self._usual = _Opens(int(total * (1 - _LONG_SHARE - _LINKS_SHARE)))
        self._long = _Opens(int(total * _LONG_SHARE))
        self._links = _Links(int(total * _LINKS_SHARE))
        self._unknown: LRUCache[str, float] = LRUCache(_UNKNOWN_LINKS_MAX)

    @property
    def size_bytes(self) -> int:
        """Return the estimated size of all entries."""
        return self._usual.size_bytes + self._long.size_bytes + self._links.size_bytes

    def answer(self, key: AnswerKey) -> Open | None:
        """Return the latest open with this key, or None; its ``repeat_until`` limits repeats."""
        opened = self._usual.latest(key) or self._long.latest(key)
        return None if opened is None or self._erased(opened.device, opened.opened_at) else opened

    def opened(self, open_id: str) -> Open | None:
        """Return an open by its id, or None; it expires ``open_ttl_s`` after its last repeat."""
        opened = self._usual.by_id.get(open_id) or self._long.by_id.get(open_id)
        if opened is None or opened.repeat_until + self._limits.open_ttl_s < self._clock():
            return None
        return None if self._erased(opened.device, opened.opened_at) else opened

    def keep(self, key: AnswerKey, opened: Open) -> None:
        """Store an open by its id and as the answer of its key, which replaces an earlier one."""
        is_long = len(opened.destination or "") + len(opened.carried) > _LONG_URL_CHARS
        here, elsewhere = (self._long, self._usual) if is_long else (self._usual, self._long)
        here.put(key, opened)
        if elsewhere:
            elsewhere.remove(key)
            elsewhere.forget(opened.open_id)

    def revise(self, opened: Open) -> None:
        """Replace an open with a new version under all of its keys; its expiry stays."""
        for opens in (self._usual, self._long):
            known = opens.by_id.get(opened.open_id)
            if known is not None:
                opens.by_id[opened.open_id] = structs.replace(opened, repeat_until=known.repeat_until)

    def link(self, domain: str, key: str) -> Link | None:
        """Return a link that Dub has described in the last ``link_ttl_s`` seconds, or None."""
        known = self._links.get(link_name(domain, key))
        if known is None or known.described + self._limits.link_ttl_s < self._clock():
            return None
        return known.link

    def keep_link(self, domain: str, key: str, link: Link) -> Link:
        """Store a link as Dub describes it; return the stored object, so that equal links share memory."""
        name = link_name(domain, key)
        now = self._clock()
        known = self._links.get(name)
        if known is not None and known.link == link:
            if now - known.described < _HOT_S:
                return known.link
            link = known.link
        self._links.put(name, Known(now, link))
        self._unknown.pop(name, None)
        return link

    def unknown_for_s(self, domain: str, key: str) -> float:
        """Return for how many more seconds Dub's "no such link" is repeated; 0 if there is none."""
        if not self._unknown:
            return 0
        until = self._unknown.get(link_name(domain, key))
        return 0 if until is None else max(until - self._clock(), 0)

    def keep_unknown(self, domain: str, key: str, asked: float) -> None:
        """Store that Dub knows no such link, unless it has described one since ``asked`` (clock seconds)."""
        name = link_name(domain, key)
        known = self._links.get(name)
        if known is not None and known.described >= asked:
            return
        self._links.remove(name)
        self._unknown[name] = self._clock() + self._limits.unknown_link_ttl_s


class _ByBytes(Generic[K, V]):
    """A least-recently-used cache, bounded by the bytes of its values, which must be immutable.

    Sizes are computed again instead of stored: the dictionary of sizes in cachetools takes 50 % more memory.
    """

    def __init__(self, bytes_max: int, size_of: Callable[[V], int]) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._bytes_max = bytes_max
        self._size_of = size_of
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return a value, and mark it as the most recently used; None if there is none."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def values(self) -> ValuesView[V]:
        """Return all values."""
        return self._entries.values()

    def put(self, key: K, value: V) -> None:
        """Store a value, and drop the least recently used values above the limit."""
        before = self._entries.pop(key, None)
        self._entries[key] = value
        self.size_bytes += self._size_of(value) - (0 if before is None else self._size_of(before))
        while self.size_bytes > self._bytes_max and len(self._entries) > 1:
            self.remove(next(iter(self._entries)))

    def remove(self, key: K) -> V | None:
        """Remove and return a value, or return None."""
        value = self._entries.pop(key, None)
        if value is not None:
            self.size_bytes -= self._size_of(value)
        return value


class _Links(_ByBytes[str, Known]):
    """Links by name."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max, lambda known: _LINK_BYTES + _link_chars(known.link))


class _Opens(_ByBytes[AnswerKey, Open]):
    """Opens by the keys that they answer, and by their ids as long as they answer any key.

    The latest version of an open is the one in ``by_id``; the entries of its keys may be older.
    """

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max, _open_bytes)
        self.by_id: dict[str, Open] = {}
        self._keys: dict[str, int] = {}  # number of an open's keys, unless it is ``_USUAL_KEYS``

    def latest(self, key: AnswerKey) -> Open | None:
        """Return the latest version of the open that answers a key."""
        opened = self._entries.get(key)
        if opened is None:
            return None
        self._entries.move_to_end(key)
        return self.by_id.get(opened.open_id, opened)

    def put(self, key: AnswerKey, value: Open) -> None:
        """Store an open as the answer of a key."""
        name, before = value.open_id, self._entries.get(key)
        if before is None or before.open_id != name:
            self._count(name, 1)
            if before is not None:
                self._count(before.open_id, -1)
        self.by_id[name] = value
        super().put(key, value)

    def remove(self, key: AnswerKey) -> Open | None:
        """Remove an open as the answer of a key, and by its id if it answers no other key."""
        opened = super().remove(key)
        if opened is not None:
            self._count(opened.open_id, -1)
        return opened

    def forget(self, name: str) -> None:
        """Remove an open from ``by_id``, also if it still answers keys."""
        self.by_id.pop(name, None)
        self._keys.pop(name, None)

    def _count(self, name: str, change: int) -> None:
        """Change the number of an open's keys; remove the open from ``by_id`` at zero."""
        if name not in self.by_id and change < 0:
            return
        keys = (self._keys.pop(name, _USUAL_KEYS) if name in self.by_id else 0) + change
        if keys == 0:
            del self.by_id[name]
        elif keys != _USUAL_KEYS:
            self._keys[name] = keys


def _open_bytes(opened: Open) -> int:
    link = opened.link
    chars = len(opened.carried) + len(opened.url or "") + len(opened.app_version or "")
    return _OPEN_BYTES + chars + (0 if link is None else _link_chars(link))


def _link_chars(link: Link) -> int:
    return len(link.id) + len(link.domain) + len(link.key) + len(link.url or "")
