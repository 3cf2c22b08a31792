"""Pause calls for links that fail at Dub: after two failures in a row, a link is not requested for a while.

What can go wrong: the failures of one link affect all other links (they are recorded here and do not count
for the circuit breaker); many failing links fill the memory (their number is bounded, and they expire); a
link that works again is still paused (a pause lasts at most five minutes, and a good answer ends it).
"""

from collections.abc import Callable

from cachetools import LRUCache
from msgspec import Struct

from service.domain.deep_links import link_name

_LINKS_MAX = 10_000
_REMEMBERED_S = 600.0
_BAD_ANSWERS = 2  # in a row; a single failure may be transient
_PAUSE_S = 10.0  # doubled with each further failure
_PAUSE_MAX_S = 300.0


class _Failure(Struct, frozen=True, gc=False):
    bad_answers: int
    until: float  # end of the pause
    forgotten_at: float


class FailingLinks:
    """Records the links that fail at Dub. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: LRUCache[str, _Failure] = LRUCache(_LINKS_MAX)  # usually empty

    def pause_s(self, domain: str, key: str) -> float:
        """Return for how many more seconds a link is paused; 0 if it may be requested."""
        known = self._known(domain, key)
        return 0 if known is None else max(known.until - self._clock(), 0)

    def failed(self, domain: str, key: str) -> None:
        """Record a failure: an unexpected status, or a body that does not have Dub's format."""
        known, now = self._known(domain, key), self._clock()
        bad_answers = 1 if known is None else known.bad_answers + 1
        pause_s = 0.0
        if bad_answers >= _BAD_ANSWERS:
            pause_s = min(_PAUSE_S * 2.0 ** min(bad_answers - _BAD_ANSWERS, 10), _PAUSE_MAX_S)
        self._failures[link_name(domain, key)] = _Failure(bad_answers, now + pause_s, now + _REMEMBERED_S)

    def answered(self, domain: str, key: str) -> None:
        """Record a good answer, which ends the pause."""
        if self._failures:
            self._failures.pop(link_name(domain, key), None)

    def _known(self, domain: str, key: str) -> _Failure | None:
        """Return a link's latest failure, or None if there is none or it has expired."""
        if not self._failures:
            return None
        known = self._failures.get(link_name(domain, key))
        return None if known is None or known.forgotten_at <= self._clock() else known
