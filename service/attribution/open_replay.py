"""Report opens to Dub that were answered without Dub.

What can go wrong: an open whose link always fails at Dub is tried for six days (it becomes a dead letter:
immediately for a permanent status, else after ``TRIES``, but only if Dub has answered another open well in
the meantime, because tries during an outage do not count); replays delay live opens (``dub.guard`` allows
only few of them at a time).
"""

from collections.abc import Callable, Mapping

import msgspec

from service.attribution.resolver import Resolver
from service.domain.errors import (
    BulkheadFull,
    DubFailed,
    DubUnavailable,
    InvalidDubResponse,
    LinkFailing,
    NotConfigured,
)
from service.domain.models import App
from service.domain.outbox_entries import DeadLetter, Delivered, DeliveryResult, Entry, QueuedOpen, RetryLater

TRIES = 6  # in about half a minute, see ``backoff_s``

_BACKOFF_MIN_S = 1.0
_BACKOFF_MAX_S = 300.0
_CROWDED_AGAIN_S = 0.5
_PERMANENT = range(300, 500)  # except 429, which counts as an outage

_decode = msgspec.json.Decoder(QueuedOpen).decode


class OpenReplay:
    """Delivers the outbox's opens. ``answered_ago_s`` returns the seconds since Dub's last good answer."""

    def __init__(
        self,
        resolver: Resolver,
        apps: Mapping[str, App],
        answered_ago_s: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self._resolver = resolver
        self._apps = apps
        self._answered_ago_s = answered_ago_s
        self._unix_time = unix_time

    async def deliver(self, entry: Entry) -> DeliveryResult:
        """Report an open once, and return the result. Dub's 404 also completes the delivery."""
        app = self._apps.get(entry.app)
        if app is None:
            return RetryLater(NotConfigured(f"apps.{entry.app} is no longer configured"))
        try:
            await self._resolver.replay(app, _decode(entry.payload))
        except BulkheadFull as exc:
            return RetryLater(exc, _CROWDED_AGAIN_S)
        except (DubFailed, InvalidDubResponse, LinkFailing) as exc:
            if self._is_final(entry, exc):
                return DeadLetter(str(exc), exc)
            return RetryLater(exc, backoff_s(entry.attempts))
        except DubUnavailable as exc:
            return RetryLater(exc, backoff_s(entry.attempts))
        return Delivered()

    def _is_final(self, entry: Entry, exc: DubUnavailable) -> bool:
        if exc.is_outage:
            return False
        if isinstance(exc, DubFailed) and exc.status in _PERMANENT:
            return True
        dub_is_well = self._answered_ago_s() < self._unix_time() - entry.created
        return dub_is_well and entry.attempts + 1 >= TRIES


def backoff_s(attempts: int) -> float:
    """Return the delay (seconds) before the next try: doubled each time, up to five minutes."""
    return float(min(_BACKOFF_MIN_S * 2.0 ** min(attempts, 16), _BACKOFF_MAX_S))
