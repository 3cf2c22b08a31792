"""The in-process tier: bounded by count, nothing here survives the process.

Everything is forgotten by age or, when full, by last use; a long URL takes more than one place, so
that memory is bounded too.
"""

from collections.abc import Callable

from cachetools import LRUCache, TLRUCache, TTLCache
from msgspec import Struct

from service.resolve.model import Link, Open


class MemoryLimits(Struct, frozen=True, kw_only=True):
    """Sizes in entries, ages in seconds."""

    opens_max: int = 200_000
    open_ttl_s: float = 3600
    links_max: int = 10_000
    link_ttl_s: float = 7 * 86_400
    unknown_links_max: int = 10_000
    unknown_link_ttl_s: float = 60


class MemoryStore:
    """Fills ``resolve.ports.Memory``. ``clock`` counts seconds and never goes back."""

    def __init__(self, limits: MemoryLimits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ttl_s = 0.0  # of the answer being kept: the cache asks once, while storing
        self._answers: TLRUCache[str, Open] = TLRUCache(
            limits.opens_max,
            ttu=lambda _key, _opened, now: now + self._ttl_s,
            timer=clock,
            getsizeof=Open.weight,
        )
        self._opens: TTLCache[str, Open] = TTLCache(
            limits.opens_max, limits.open_ttl_s, timer=clock, getsizeof=Open.weight
        )
        self._links: TTLCache[tuple[str, str], Link] = TTLCache(
            limits.links_max, limits.link_ttl_s, timer=clock, getsizeof=_link_weight
        )
        self._unknown_ttl_s = limits.unknown_link_ttl_s
        self._unknown: LRUCache[tuple[str, str], float] = LRUCache(limits.unknown_links_max)

    def answer(self, key: str) -> Open | None:
        """Recall the open answered under this key, while it is fresh."""
        return self._answers.get(key)

    def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id."""
        return self._opens.get(open_id)

    def keep(self, key: str, opened: Open, ttl_s: float) -> None:
        """Remember an open: by its id, and for ``ttl_s`` seconds as the answer under its key."""
        self._ttl_s = ttl_s
        self._answers[key] = opened
        self._opens[opened.open_id] = opened

    def link(self, domain: str, key: str) -> Link | None:
        """Recall a link that Dub described, days past its freshness."""
        return self._links.get((domain, key))

    def keep_link(self, domain: str, key: str, link: Link) -> None:
        """Remember what Dub said a link is."""
        self._links[domain, key] = link

    def unknown_for_s(self, domain: str, key: str) -> float:
        """Return for how many seconds more Dub's "no such link" stands; 0 if it does not."""
        until = self._unknown.get((domain, key))
        return 0 if until is None else max(until - self._clock(), 0)

    def keep_unknown(self, domain: str, key: str) -> None:
        """Remember that Dub knows no such link."""
        self._unknown[domain, key] = self._clock() + self._unknown_ttl_s


def _link_weight(link: Link) -> int:
    return 1 + (len(link.url or "") + len(link.key)) // 1024
