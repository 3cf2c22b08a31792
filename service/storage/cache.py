"""The in-process cache: bounded by bytes, and nothing in it survives the process.

The bytes of an entry are estimated: what the objects of a usual one take, and the characters of its strings.
A full cache forgets what was used longest ago. Ages are kept in the values, not by the caches: half
the memory, and little for the garbage collector to walk over.

What can go wrong: somebody with a publishable key fills memory with 32,000-character links, or pushes
everybody else's opens out with them (opens with long URLs have a small cache of their own; long keys are
hashed); an erased install is remembered (what is older than its erasure is recalled by nobody).
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
_LONG_SHARE, _LINKS_SHARE = 0.1, 0.1  # of all bytes: for opens with long URLs, and for links
_OPEN_BYTES = 900  # of an open, beside the characters of its strings
_LINK_BYTES = 500
_UNKNOWN_LINKS_MAX = 10_000  # names of a few hundred bytes
_USUAL_KEYS = 2  # of an open: what was opened, and its device
_HOT_S = 1  # a link described again within this time needs no new date


K = TypeVar("K")
V = TypeVar("V")


class MemoryLimits(Struct, frozen=True, kw_only=True):
    """Ages in seconds."""

    bytes_max: int
    open_ttl_s: float
    link_ttl_s: float
    unknown_link_ttl_s: float


class Known(Struct, frozen=True, gc=False):
    """A link, and when Dub last described it."""

    described: float
    link: Link


class MemoryOpenCache:
    """Fills ``resolve.ports.Memory``. ``clock`` counts seconds and never goes back."""

    def __init__(
        self,
        limits: MemoryLimits,
        clock: Callable[[], float],
        erased: Callable[[str, float], bool] = lambda _device, _at: False,
    ) -> None:
        self._limits = limits
        self._erased = erased  # whether a device was erased at a time (Unix seconds) or later
        self._clock = clock
        total = limits.bytes_max
        self._usual = _Opens(int(total * (1 - _LONG_SHARE - _LINKS_SHARE)))
        self._long = _Opens(int(total * _LONG_SHARE))
        self._links = _Links(int(total * _LINKS_SHARE))
        self._unknown: LRUCache[str, float] = LRUCache(_UNKNOWN_LINKS_MAX)

    @property
    def size_bytes(self) -> int:
        """Return about how many bytes are remembered."""
        return self._usual.size_bytes + self._long.size_bytes + self._links.size_bytes

    def answer(self, key: AnswerKey) -> Open | None:
        """Recall the open last answered under this key; it says until when it may be repeated."""
        opened = self._usual.latest(key) or self._long.latest(key)
        return None if opened is None or self._erased(opened.device, opened.opened_at) else opened

    def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id while it is what would be answered, and for an hour or so after."""
        opened = self._usual.by_id.get(open_id) or self._long.by_id.get(open_id)
        if opened is None or opened.repeat_until + self._limits.open_ttl_s < self._clock():
            return None
        return None if self._erased(opened.device, opened.opened_at) else opened

    def keep(self, key: AnswerKey, opened: Open) -> None:
        """Remember an open, by its id and as the answer under its key, in place of what was there."""
        is_long = len(opened.destination or "") + len(opened.carried) > _LONG_URL_CHARS
        here, elsewhere = (self._long, self._usual) if is_long else (self._usual, self._long)
        here.put(key, opened)
        if elsewhere:
            elsewhere.remove(key)
            elsewhere.forget(opened.open_id)

    def revise(self, opened: Open) -> None:
        """Remember a new version of an open, under every key that it answers, and for as long."""
        for opens in (self._usual, self._long):
            known = opens.by_id.get(opened.open_id)
            if known is not None:
                opens.by_id[opened.open_id] = structs.replace(opened, repeat_until=known.repeat_until)

    def link(self, domain: str, key: str) -> Link | None:
        """Recall a link that Dub described, days past its freshness."""
        known = self._links.get(link_name(domain, key))
        if known is None or known.described + self._limits.link_ttl_s < self._clock():
            return None
        return known.link

    def keep_link(self, domain: str, key: str, link: Link) -> Link:
        """Remember what Dub said a link is, until it says otherwise; return the one object of it."""
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
        """Return for how many seconds more Dub's "no such link" stands; 0 if it does not."""
        until = self._unknown.get(link_name(domain, key))
        return 0 if until is None else max(until - self._clock(), 0)

    def keep_unknown(self, domain: str, key: str, asked: float) -> None:
        """Remember that Dub knows no such link, unless it described one since ``asked`` (clock seconds)."""
        name = link_name(domain, key)
        known = self._links.get(name)
        if known is not None and known.described >= asked:
            return
        self._links.remove(name)
        self._unknown[name] = self._clock() + self._limits.unknown_link_ttl_s


class _ByBytes(Generic[K, V]):
    """A cache bounded by the bytes of its values, which never change: nothing is kept of their sizes.

    cachetools has a dictionary beside its ``OrderedDict``, which takes half as much memory again.
    """

    def __init__(self, bytes_max: int, size_of: Callable[[V], int]) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._bytes_max = bytes_max
        self._size_of = size_of
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return a value, which then is the latest to be forgotten; ``None`` if there is none."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def values(self) -> ValuesView[V]:
        """Return all values."""
        return self._entries.values()

    def put(self, key: K, value: V) -> None:
        """Remember a value in place of what was there, and forget what was used longest ago."""
        before = self.get(key)
        self._entries[key] = value
        self.size_bytes += self._size_of(value) - (0 if before is None else self._size_of(before))
        while self.size_bytes > self._bytes_max and len(self._entries) > 1:
            self.remove(next(iter(self._entries)))

    def remove(self, key: K) -> V | None:
        """Forget a value, if there is one; return it."""
        value = self._entries.pop(key, None)
        if value is not None:
            self.size_bytes -= self._size_of(value)
        return value


class _Links(_ByBytes[str, Known]):
    """Links by name."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max, lambda known: _LINK_BYTES + _link_chars(known.link))


class _Opens(_ByBytes[AnswerKey, Open]):
    """Opens by the keys that they answer; and by their ids, as long as they are any key's answer.

    What is known by the id is the latest version of an open, whatever its other keys hold.
    """

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max, _open_bytes)
        self.by_id: dict[str, Open] = {}
        self._keys: dict[str, int] = {}  # how many an open answers, but for nearly all, which have two

    def latest(self, key: AnswerKey) -> Open | None:
        """Return the latest version of the open that answers a key."""
        opened = self.get(key)
        return None if opened is None else self.by_id.get(opened.open_id, opened)

    def put(self, key: AnswerKey, value: Open) -> None:
        """Remember an open as the answer to a key."""
        name, before = value.open_id, self._entries.get(key)
        if before is None or before.open_id != name:
            self._count(name, 1)
            if before is not None:
                self._count(before.open_id, -1)
        self.by_id[name] = value
        super().put(key, value)

    def remove(self, key: AnswerKey) -> Open | None:
        """Forget an open as the answer to a key, and by its id if it answers no other key."""
        opened = super().remove(key)
        if opened is not None:
            self._count(opened.open_id, -1)
        return opened

    def forget(self, name: str) -> None:
        """Forget an open by its id, whatever keys it answers."""
        self.by_id.pop(name, None)
        self._keys.pop(name, None)

    def _count(self, name: str, change: int) -> None:
        """Count the keys of an open; one without any is forgotten."""
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
