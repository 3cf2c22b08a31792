"""Remember clicks that Dub created a moment ago: Dub finds them immediately, in its fast store."""

from collections import OrderedDict
from collections.abc import Callable

KNOWN_S = 280.0  # Dub's fast store keeps a deep-link open's click for 5 minutes; minus 20 s to send a lead
_CLICKS_MAX = 50_000


class RecentClicks:
    """Remembers when recent clicks were created, up to a maximum number. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # A plain dict is slow here: finding its first key skips over all deleted entries.
        self._made: OrderedDict[str, float] = OrderedDict()

    def add(self, click_id: str, asked: float) -> None:
        """Remember a click that a call begun at ``asked`` (monotonic seconds) has created."""
        if len(self._made) >= _CLICKS_MAX:
            self._made.popitem(last=False)
        self._made.setdefault(click_id, asked)

    def known_for_s(self, click_id: str) -> float:
        """Return for how many more seconds Dub certainly knows this click; 0 if that is unknown."""
        made = self._made.get(click_id)
        return 0 if made is None else max(made + KNOWN_S - self._clock(), 0)
