"""Opens as they come, for operators who watch: which are wanted, and what is shown of each."""

from msgspec import Struct

from service.domain.models import MatchType, Open
from service.domain.routing import Reason, Route

ANY_TEST_DEVICE = "any"  # as a filter; no session has this name


class Arrival(Struct, frozen=True, gc=False):
    """An open that was stored, with what decides whether anybody wants to see it."""

    open_id: str
    opened_at_ms: int
    match_type: str
    test_device: str | None


class Repeated(Struct, frozen=True, gc=False):
    """An open of a test device that was reported again, and when."""

    open_id: str
    at_ms: int
    test_device: str


class LiveFilter(Struct, frozen=True):
    """Which opens are wanted; None: all. ``test_device`` is a session's name or ``ANY_TEST_DEVICE``."""

    match_type: MatchType | None = None
    outcome: Reason | None = None
    test_device: str | None = None

    def fits(self, match_type: str, test_device: str | None, outcome: Reason | None = None) -> bool:
        """Return True if an open is wanted; without ``outcome``, if it may be."""
        if self.test_device is not None and (
            test_device is None or self.test_device not in (test_device, ANY_TEST_DEVICE)
        ):
            return False
        return self.match_type in (None, match_type) and (outcome is None or self.outcome in (None, outcome))


class LiveOpen(Struct, gc=False):
    """An open, and where it lands.

    All watchers share it, so it is written once: ``html`` keeps its row of the console, ``event`` its event.
    """

    open: Open
    route: Route
    test_device: str | None
    repeated_at: float | None = None  # Unix seconds
    html: str = ""
    event: bytes = b""

    @property
    def at(self) -> float:
        """Return when it was reported, or reported again, in Unix seconds."""
        return self.open.opened_at if self.repeated_at is None else self.repeated_at
