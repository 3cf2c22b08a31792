"""Build the feed of live opens, for the console and ``GET /v1/opens/live``."""

from collections.abc import Callable

from service.api.ops import Readiness
from service.attribution.live_feed import LiveFeed
from service.attribution.recent_opens import RecentOpens
from service.wiring.parts import Parts


def live_feed(parts: Parts, readiness: Readiness, unix_time: Callable[[], float]) -> LiveFeed:
    """Build the feed on the service's parts; it ends as soon as the service stops."""
    stores = parts.stores
    return LiveFeed(
        stores.opens,
        stores.device_sessions,
        RecentOpens(stores.opens),
        is_stopping=lambda: readiness.stopping,
        unix_time=unix_time,
        background=parts.background,
        metrics=parts.metrics,
    )
