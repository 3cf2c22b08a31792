"""Links that Dub answers badly: after two bad answers in a row a link is left alone for a while.

What can go wrong: one link's fault counts against every other link (it is remembered here, and never by the
circuit breaker); a flood of bad links fills memory (bounded, and they expire); a link that is well again is
kept away (a good answer, or five minutes, end it).
"""

from collections.abc import Callable

from cachetools import LRUCache
from msgspec import Struct

from service.domain.deep_links import link_name

_LINKS_MAX = 10_000
_REMEMBERED_S = 600.0
_BAD_ANSWERS = 2  # in a row: one may be a hiccup of Dub's
_PAUSE_S = 10.0  # doubled with every further bad answer
_PAUSE_MAX_S = 300.0


class _Failure(Struct, frozen=True, gc=False):
    bad_answers: int
    until: float  # left alone
    forgotten_at: float


class FailingLinks:
    """Remembers which links Dub answers badly. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: LRUCache[str, _Failure] = LRUCache(_LINKS_MAX)  # nearly always empty

    def pause_s(self, domain: str, key: str) -> float:
        """Return for how many seconds a link is left alone; 0 if it may be asked about."""
        known = self._known(domain, key)
        return 0 if known is None else max(known.until - self._clock(), 0)

    def failed(self, domain: str, key: str) -> None:
        """Note a bad answer: a status or a body that is not one of Dub's."""
        known, now = self._known(domain, key), self._clock()
        bad_answers = 1 if known is None else known.bad_answers + 1
        pause_s = 0.0
        if bad_answers >= _BAD_ANSWERS:
            pause_s = min(_PAUSE_S * 2.0 ** min(bad_answers - _BAD_ANSWERS, 10), _PAUSE_MAX_S)
        self._failures[link_name(domain, key)] = _Failure(bad_answers, now + pause_s, now + _REMEMBERED_S)

    def answered(self, domain: str, key: str) -> None:
        """Note a good answer."""
        if self._failures:
            self._failures.pop(link_name(domain, key), None)

    def _known(self, domain: str, key: str) -> _Failure | None:
        """Return a link's latest bad answer; ``None`` if there is none, or it is long ago."""
        if not self._failures:
            return None
        known = self._failures.get(link_name(domain, key))
        return None if known is None or known.forgotten_at <= self._clock() else known
