"""Who opened from which network, and by which link: in 40 bytes an open, since nearly every open is noted.

What can go wrong: memory that grows with traffic (rows are bounded, and lie in blocks that go as a whole);
an expiry or a crowd that holds the event loop (each note gives up a few rows, who asks reads a bounded
number); one busy network that pushes everybody else's rows out (what says nothing new is not noted); a clock
that was ahead for a moment (times are compared with the asker's, never with the latest).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from struct import Struct as Layout
from typing import TypeVar

from service.resolve.matching import CLOCK_DIFFERENCE_S, Retirement
from service.resolve.traits import Traits

INSTALLS_MAX = 1_000_000
INSTALLS_PER_NETWORK = 64  # counted at least; more where an app's crowd_limit is higher
CROWD_LIMIT_MAX = 1000  # counting more would read a network's rows for longer than an open may take

# Network, install, Unix ms, steps back to its network's row before (0: none), link, device.
_ROW = Layout("<Q16sqIHH")
_ROWS = 4096  # of a block: links and devices are named in two bytes
_SHARDS = 256  # a dictionary that grows copies itself: none may be large
_MINUTE_MS = 60_000
_SLACK_S = 2 * CLOCK_DIFFERENCE_S  # an open is matched anew for half a minute after it arrived
_SEEN_AGAIN = 60  # one part of a window in so many: an install is noted anew no more often
_LOOKED_BACK = 8  # rows that are searched for an install that was noted already
_LOOKED_BACK_OF_MANY = 64  # the same, on a network with more installs than are counted
_READ_MAX = 1024  # rows of one network that are read at most
_READ_MAX_PER_INSTALL = 4  # the same for a high crowd_limit: an install that opens often has several rows
_GIVEN_UP_EVERY = 16  # rows
_GIVEN_UP_AT_A_TIME = 64
_DEPTH_BITS = 10  # enough for CROWD_LIMIT_MAX
_DEPTH_MAX = 2**_DEPTH_BITS - 1
_NOT_SAID = Traits()

T = TypeVar("T")

_unpack: Callable[[bytearray, int], tuple[int, bytes, int, int, int, int]] = _ROW.unpack_from


class _Words(dict[T, int]):
    """Words' numbers, given as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[T] = []

    def __missing__(self, word: T) -> int:
        number = self[word] = len(self.words)
        self.words.append(word)
        return number


class _Block:
    """Rows one after another, and the words that they name by number."""

    def __init__(self) -> None:
        self.rows = bytearray(_ROWS * _ROW.size)
        self.links: _Words[str] = _Words()
        self.devices: _Words[Traits] = _Words()


class NetworkLog:
    """Sightings of the last ``kept_ms`` by network, ``rows_max`` of them or a few more.

    ``installs`` is how many distinct installs of one network can be counted.
    """

    def __init__(self, kept_ms: int, rows_max: int, installs: int = INSTALLS_PER_NETWORK) -> None:
        self.kept_ms = kept_ms
        self._rows_max = rows_max
        self._installs = installs
        self._read_max = max(_READ_MAX, _READ_MAX_PER_INSTALL * installs)
        self._first = 0  # the number of the oldest row
        self._next = 0
        self._blocks: deque[_Block] = deque()
        # By network: its newest row's number, and (in the last bits) how many came before it.
        self._newest: list[dict[int, int]] = [{} for _ in range(_SHARDS)]
        self._minute = 0
        self._busy: dict[int, int] = {}  # rows of this minute, of networks that have many

    def __len__(self) -> int:
        return self._next - self._first

    def add(
        self, network: int, install: str, at_ms: int, link_id: str = "", device: Traits = _NOT_SAID
    ) -> None:
        """Note a sighting, unless its network is so busy that it says nothing new.

        ``install`` is a keyed hash of at most 16 ASCII characters, as ``Identity.device`` makes them.
        """
        number, shard = self._next, self._newest[network % _SHARDS]
        newest = shard.get(network)
        if newest is None:
            steps = depth = 0
        else:
            steps = number - (newest >> _DEPTH_BITS)
            depth = newest & _DEPTH_MAX
            if depth < self._installs:
                depth += 1
            elif self._is_busy(network, at_ms):
                return
        place = number % _ROWS
        if place == 0:
            self._blocks.append(_Block())
        block = self._blocks[-1]
        link, which = block.links[link_id], block.devices[device]
        _ROW.pack_into(block.rows, place * _ROW.size, network, install.encode(), at_ms, steps, link, which)
        shard[network] = number << _DEPTH_BITS | depth
        self._next = number + 1
        if place % _GIVEN_UP_EVERY == 0:
            self._give_up(at_ms - self.kept_ms)

    def of(self, network: int, since_ms: int) -> Iterator[tuple[bytes, int, str, Traits]]:
        """Return install, Unix ms, link and device of a network's sightings, the last noted first."""
        newest = self._newest[network % _SHARDS].get(network)
        number = -1 if newest is None else newest >> _DEPTH_BITS
        for _ in range(self._read_max):
            if number < self._first:
                return
            block = self._blocks[number // _ROWS - self._first // _ROWS]
            _, install, at_ms, steps, link, device = _unpack(block.rows, number % _ROWS * _ROW.size)
            if at_ms >= since_ms:
                yield install.rstrip(b"\0"), at_ms, block.links.words[link], block.devices.words[device]
            if not steps:
                return
            number -= steps

    def has(self, network: int, install: str, since_ms: int, link_id: str = "") -> bool:
        """Whether an install that came by this link is among the last of a network, after ``since_ms``."""
        newest = self._newest[network % _SHARDS].get(network)
        if newest is None:
            return False
        number, depth = newest >> _DEPTH_BITS, newest & _DEPTH_MAX
        for _ in range(_LOOKED_BACK if depth < self._installs else _LOOKED_BACK_OF_MANY):
            if number < self._first:
                break
            block = self._blocks[number // _ROWS - self._first // _ROWS]
            _, noted, noted_ms, steps, link, _ = _unpack(block.rows, number % _ROWS * _ROW.size)
            is_it = noted_ms > since_ms and noted.rstrip(b"\0") == install.encode()
            if is_it and block.links.words[link] == link_id:
                return True
            if not steps:
                break
            number -= steps
        return False

    def _is_busy(self, network: int, at_ms: int) -> bool:
        """Whether a network has had so many within this minute that one more says nothing new."""
        minute = at_ms // _MINUTE_MS
        if not self._minute - 1 <= minute <= self._minute:  # those of a moment ago count towards this one
            self._minute = minute
            self._busy.clear()
        count = self._busy[network] = self._busy.get(network, 0) + 1
        return count > self._installs

    def _give_up(self, before_ms: int) -> None:
        """Give up a few of the oldest rows, if they are from before then or there are too many."""
        for _ in range(_GIVEN_UP_AT_A_TIME):
            number = self._first
            network, _, at_ms, *_ = _unpack(self._blocks[0].rows, number % _ROWS * _ROW.size)
            if at_ms >= before_ms and len(self) <= self._rows_max:
                return
            shard = self._newest[network % _SHARDS]
            if shard[network] >> _DEPTH_BITS == number:
                del shard[network]
            self._first = number + 1
            if self._first % _ROWS == 0:
                self._blocks.popleft()


class Crowds:
    """How many installs open from a network: every open is noted here, or as a retirement.

    Noting is idempotent, so what a store remembers can be noted again after a start. Counting stops at one
    install more than ``crowd_limit`` (at most ``CROWD_LIMIT_MAX``), or than ``INSTALLS_PER_NETWORK``.
    """

    def __init__(self, window_s: int, crowd_limit: int = 0, *, installs_max: int = INSTALLS_MAX) -> None:
        self._window_ms = window_s * 1000
        self._counted = max(INSTALLS_PER_NETWORK, crowd_limit)
        self._log = NetworkLog((window_s + _SLACK_S) * 1000, installs_max, self._counted)

    def __len__(self) -> int:
        return len(self._log)

    def note(self, network: int, install: str, at_ms: int) -> None:
        """Remember that an install opened from a network."""
        if not self._log.has(network, install, at_ms - self._window_ms // _SEEN_AGAIN):
            self._log.add(network, install, at_ms)

    def count(self, network: int, install: str, at_ms: int, retirements: Sequence[Retirement] = ()) -> int:
        """Return how many distinct installs opened within the window before ``at_ms``, with this one.

        Retired installs of the network have opened from it, too.
        """
        since_ms = at_ms - self._window_ms
        installs = {each.install.encode() for each in retirements if each.at_ms >= since_ms}
        installs.add(install.encode())
        for noted, _, _, _ in self._log.of(network, since_ms):
            installs.add(noted)
            if len(installs) > self._counted:
                break
        return len(installs)


class Retirements:
    """Who was found by stronger evidence: clicks that show up later are theirs, too."""

    def __init__(self, window_s: int, *, installs_max: int = INSTALLS_MAX) -> None:
        self._window_ms = window_s * 1000
        self._log = NetworkLog((window_s + _SLACK_S) * 1000, installs_max)

    def __len__(self) -> int:
        return len(self._log)

    def note(self, network: int, retirement: Retirement) -> None:
        """Remember a retirement for a window's time."""
        install, link_id, at_ms = retirement.install, retirement.link_id, retirement.at_ms
        if not self._log.has(network, install, at_ms - self._window_ms // _SEEN_AGAIN, link_id):
            self._log.add(network, install, at_ms, link_id, retirement.device)

    def of(self, network: int, at_ms: int) -> tuple[Retirement, ...]:
        """Return a network's retirements as of a time: of an install and a link the last."""
        found: dict[tuple[bytes, str], Retirement] = {}
        for install, noted_ms, link_id, device in self._log.of(network, at_ms - self._log.kept_ms):
            known = found.get((install, link_id))
            if known is None and len(found) == INSTALLS_PER_NETWORK:
                break
            if known is None or known.at_ms < noted_ms:
                found[install, link_id] = Retirement(install.decode(), link_id, noted_ms, device)
        return tuple(found.values())
