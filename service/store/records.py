"""How an open is written down, wherever it is kept.

What could say whose it is, is sealed: a URL that Dub did not describe (through an SDK it may be somebody's
clipboard), or what a link carried.
"""

from collections.abc import Callable

import msgspec
from msgspec import structs

from service.resolve.ladder import FIRST_LAUNCH, STRENGTH
from service.resolve.model import Open
from service.store.sealing import SEALED, Seal, Unsealable

_LOOKED_FOR_S = 60.0  # after which nobody looks for the click of a first launch any more
_OWED_S = 7 * 86_400.0  # after which nobody reports an open any more

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Open).decode


class Records:
    """Opens to bytes and back. ``clock`` is monotonic, ``wall`` Unix time, both in seconds."""

    def __init__(self, seal: Seal, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._seal = seal
        self._clock = clock
        self._wall = wall

    def of(self, opened: Open) -> bytes:
        """Write an open: MessagePack, or sealed MessagePack."""
        record = _encode(opened)
        says = opened.carried or opened.url is not None
        return self._seal.seal(record) if says else record

    def plain(self, record: bytes) -> Open | None:
        """Read an open as it was written; ``None`` if its secret is not listed any more, or it is damaged."""
        try:
            return _decode(self._seal.open(record) if record.startswith(SEALED) else record)
        except (Unsealable, msgspec.DecodeError):
            return None

    def revived(self, at: float, record: bytes) -> Open | None:
        """Read an open of ``at``; another process's monotonic clock means nothing here: it is no repeat now.

        What was sealed under a secret that is not listed any more is forgotten; what was pending, or looked
        for, for longer than anybody works on it is so no more.
        """
        opened = self.plain(record)
        if opened is None:
            return None
        patience_s = _LOOKED_FOR_S if opened.offered <= STRENGTH["ip"] else _OWED_S
        age_s = self._wall() - at
        return structs.replace(
            opened,
            repeat_until=self._clock(),
            provisional=opened.provisional and age_s < patience_s,
            looking=opened.looking and age_s < _LOOKED_FOR_S,
        )


def tells(opened: Open) -> int:
    """Say how much an open tells of its install. 2: how it came; 1: a click, or one to come; 0: neither."""
    if opened.offered in FIRST_LAUNCH:
        return 2
    return 1 if opened.click_id is not None or opened.pending else 0
