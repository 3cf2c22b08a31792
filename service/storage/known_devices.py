"""Which devices the database may have opens of, so that an open of a new one need not ask it.

Most opens that the cache does not answer come from devices that are new; looking each of them up costs a
tenth of the open. This is a Bloom filter: "no" is certain, "maybe" is looked up.

What can go wrong: a device is called new although the database has it (nothing is called new before every
row was read, and each later open is added before it is written); another process writes opens (only an
engine that is one process's alone is used with this filter); erased and expired devices stay in it until the
next start, and with far more devices than it is made for many a new one is looked up after all (a "maybe"
costs a query and no answer).
"""

_BYTES = 8 * 1024 * 1024  # with 4 positions each, 5 million devices: 1 new one in 200 is looked up
_POSITIONS = 4
_MASK = _BYTES * 8 - 1


class KnownDevices:
    """A set of devices by their 64-bit keyed hashes, which may contain more than was added."""

    def __init__(self) -> None:
        self._bits = bytearray(_BYTES)

    def add(self, device: int) -> None:
        """Add a device."""
        at, step = device & _MASK, device >> 32 | 1
        for _ in range(_POSITIONS):
            self._bits[at >> 3] |= 1 << (at & 7)
            at = (at + step) & _MASK

    def __contains__(self, device: int) -> bool:
        """Return False only for a device that was never added."""
        at, step = device & _MASK, device >> 32 | 1
        for _ in range(_POSITIONS):
            if not self._bits[at >> 3] >> (at & 7) & 1:
                return False
            at = (at + step) & _MASK
        return True
