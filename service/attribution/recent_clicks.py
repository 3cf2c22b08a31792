"""Remember clicks that Dub created a moment ago: Dub finds them immediately, in its fast store."""

from collections.abc import Callable

KNOWN_S = 280.0  # Dub's fast store keeps a deep-link open's click for 5 minutes; minus 20 s to send a lead
_CLICKS_MAX = 50_000  # at least half of them are kept


class RecentClicks:
    """Remembers when recent clicks were created, up to a maximum number. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Two halves, of which the older is dropped as a whole: an OrderedDict takes twice the memory.
        self._newer: dict[str, float] = {}
        self._older: dict[str, float] = {}

    def add(self, click_id: str, asked: float) -> None:
        """Remember a click that a call begun at ``asked`` (monotonic seconds) has created."""
        if len(self._newer) >= _CLICKS_MAX // 2:
            self._older, self._newer = self._newer, {}
        if click_id not in self._older:
            self._newer.setdefault(click_id, asked)

    def known_for_s(self, click_id: str) -> float:
        """Return for how many more seconds Dub certainly knows this click; 0 if that is unknown."""
        made = self._newer.get(click_id, self._older.get(click_id))
        return 0 if made is None else max(made + KNOWN_S - self._clock(), 0)
