"""The in-process tier: bounded by count, and nothing in it survives the process.

What is full forgets what was used longest ago. Ages are kept in the values, not by the caches: half the
memory, and little for the garbage collector to walk over. Opens with long URLs have a small cache of
their own, and long keys are hashed, so that nobody can fill memory with 32,000-character links.
"""

from collections.abc import Callable, Sequence

from cachetools import LRUCache
from msgspec import Struct

from service.resolve.evidence import link_name
from service.resolve.model import Link, Open

_LONG_URL_CHARS = 1024
_LONG_SHARE = 100  # one in so many places is for opens with long URLs
_HOT_S = 1  # a link described again within this time needs no new date


class MemoryLimits(Struct, frozen=True, kw_only=True):
    """Sizes in entries, ages in seconds."""

    opens_max: int
    open_ttl_s: float
    links_max: int
    link_ttl_s: float
    unknown_links_max: int
    unknown_link_ttl_s: float


class Known(Struct, frozen=True, gc=False):
    """A link, and when Dub last described it."""

    described: float
    link: Link


class MemoryStore:
    """Fills ``resolve.ports.Memory``. ``clock`` counts seconds and never goes back."""

    is_shared = False

    def __init__(self, limits: MemoryLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._usual = _Opens(limits.opens_max)
        self._long = _Opens(limits.opens_max // _LONG_SHARE)
        self._links: LRUCache[str, Known] = LRUCache(limits.links_max)
        self._unknown: LRUCache[str, float] = LRUCache(limits.unknown_links_max)

    async def shared(
        self,
        key: bytes,  # noqa: ARG002  nobody else knows anything
        first_launch: bytes | None,  # noqa: ARG002
        links: Sequence[tuple[str, str]],  # noqa: ARG002
    ) -> Open | None:
        """Return nothing: one process is all there is."""
        return None

    def answer(self, key: bytes) -> Open | None:
        """Recall the open last answered under this key; it says until when it may be repeated."""
        return self._usual.get(key) or self._long.get(key)

    def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id while it is what would be answered, and for an hour or so after."""
        opened = self._usual.by_id.get(open_id) or self._long.by_id.get(open_id)
        if opened is None or opened.repeat_until + self._limits.open_ttl_s < self._clock():
            return None
        return opened

    def keep(self, key: bytes, opened: Open) -> None:
        """Remember an open, by its id and as the answer under its key, in place of what was there."""
        is_long = len(opened.destination or "") + len(opened.carried) > _LONG_URL_CHARS
        here, elsewhere = (self._long, self._usual) if is_long else (self._usual, self._long)
        here[key] = opened
        if elsewhere:
            elsewhere.pop(key, None)
            elsewhere.by_id.pop(opened.open_id, None)

    def forget(self, open_ids: frozenset[str]) -> None:
        """Forget these opens; it walks over all that is remembered."""
        for opens in (self._usual, self._long):
            for key in [key for key, opened in opens.items() if opened.open_id in open_ids]:
                del opens[key]

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
        self._links[name] = Known(now, link)
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
        self._links.pop(name, None)
        self._unknown[name] = self._clock() + self._limits.unknown_link_ttl_s


class _Opens(LRUCache[bytes, Open]):
    """Opens by the keys that they answer; and by their ids, as long as they are any key's answer."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.by_id: dict[str, Open] = {}
        self._more: dict[str, int] = {}  # keys beside the first, of an open that has several

    def __setitem__(self, key: bytes, opened: Open) -> None:
        name, before = opened.open_id, self.get(key)
        if before is None or before.open_id != name:
            if before is not None:
                self._let_go(before)
            super().__setitem__(key, opened)
            if name in self.by_id:
                self._more[name] = self._more.get(name, 0) + 1
        else:
            super().__setitem__(key, opened)
        self.by_id[name] = opened

    def __delitem__(self, key: bytes) -> None:
        opened = self[key]
        super().__delitem__(key)
        self._let_go(opened)

    def _let_go(self, opened: Open) -> None:
        """Forget an open by its id, unless it is another key's answer, too."""
        name = opened.open_id
        more = self._more.get(name, 0)
        if more > 1:
            self._more[name] = more - 1
        elif more:
            del self._more[name]
        else:
            self.by_id.pop(name, None)
