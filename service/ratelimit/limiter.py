"""Rate limits per API key and per IP address, checked before any other work is done for a request.

The address is counted first. A request that its address's limit refuses is not counted against the key, so
one phone cannot use up its app's limit. Addresses and keys are stored as keyed hashes.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from service.domain.device_identity import packed_ip
from service.domain.errors import RateLimited
from service.domain.rate_limit_status import By, RateLimitStatus
from service.domain.rates import Rate
from service.ratelimit.windows import Cell, Window
from service.telemetry import FastCounter

_IPV6_NETWORK_BYTES = 8  # a /64 is one customer
_CALLER_BYTES = 8


class Limits:
    """The rate limits of one process. ``per_key`` maps app names to rates; ``secret`` keys the hashes."""

    def __init__(
        self,
        *,
        per_address: tuple[Rate, ...],
        per_key: Mapping[str, tuple[Rate, ...]],
        secret: bytes,
        unix_time: Callable[[], float],
        refused: FastCounter,
    ) -> None:
        self._addresses: list[Window] = []
        self._keys: dict[str, list[Window]] = {}
        self.replace(per_address, per_key)
        self._hash_key = blake2b(b"limits\0" + secret).digest()
        self._unix_time = unix_time
        self._refused = refused

    def replace(self, per_address: tuple[Rate, ...], per_key: Mapping[str, tuple[Rate, ...]]) -> None:
        """Set other rates. What was counted against a rate that stays is not forgotten."""
        self._addresses = _windows("address", per_address, self._addresses)
        self._keys = {app: _windows("key", rates, self._keys.get(app, ())) for app, rates in per_key.items()}

    @property
    def are_set(self) -> bool:
        """Return True if there is any limit."""
        return bool(self._addresses or self._keys)

    def name_of(self, key: bytes) -> bytes:
        """Return the hash under which an API key is counted: the same on every replica."""
        return self._hash(b"k" + key)

    def rate_limit(self, app: str, key_name: bytes, *, by_address: bool) -> "Counted":
        """Return the rate-limit check of one request with this key."""
        return Counted(self, app, key_name, by_address=by_address)

    async def failed(self, ip: str | None) -> None:
        """Count a failed authentication against its address; raises ``RateLimited``."""
        await self._count(ip, (), b"")

    async def check(self, app: str, key_name: bytes, ip: str | None) -> RateLimitStatus | None:
        """Count a request against its key, and against its address unless ``ip`` is None.

        Return the status of the window with the fewest requests left; None if nothing limits the request.
        Raises ``RateLimited``.
        """
        return await self._count(ip, self._keys.get(app, ()), key_name)

    async def _count(self, ip: str | None, keys: Sequence[Window], key_name: bytes) -> RateLimitStatus | None:
        now = self._unix_time()
        cells = []
        if ip is not None and self._addresses:
            caller = self._address(ip)
            cells = [Cell(window, caller, int(now // window.period_s)) for window in self._addresses]
        cells += [Cell(window, key_name, int(now // window.period_s)) for window in keys]
        tightest: Window | None = None
        least = 0
        for cell in cells:
            window = cell.window
            left = window.amount - window.count(cell.caller, cell.number)
            if left < 0:
                self._refused.add(window.by)
                raise RateLimited(window.by, window.period_s, _status(window, 0, now))
            if tightest is None or left < least:
                tightest, least = window, left
        return None if tightest is None else _status(tightest, least, now)

    def _address(self, ip: str) -> bytes:
        return self._hash(b"a" + packed_ip(ip)[:_IPV6_NETWORK_BYTES])

    def _hash(self, text: bytes) -> bytes:
        return blake2b(text, key=self._hash_key, digest_size=_CALLER_BYTES).digest()


def _windows(by: By, rates: Sequence[Rate], known: Sequence[Window]) -> list[Window]:
    kept = {(window.amount, window.period_s): window for window in known}
    return [kept.get((rate.amount, rate.period_s)) or Window(by, rate) for rate in rates]


def _status(window: Window, left: int, now: float) -> RateLimitStatus:
    return RateLimitStatus(window.amount, left, window.period_s - now % window.period_s)


class Counted:
    """The ``RateLimitCheck`` of one request."""

    __slots__ = ("_app", "_by_address", "_key_name", "_limits", "rate_limit_status")

    def __init__(self, limits: Limits, app: str, key_name: bytes, *, by_address: bool) -> None:
        self._limits = limits
        self._app = app
        self._key_name = key_name
        self._by_address = by_address
        self.rate_limit_status: RateLimitStatus | None = None

    async def check(self, ip: str | None) -> None:
        """Count the request; raises ``RateLimited``."""
        self.rate_limit_status = await self._limits.check(
            self._app, self._key_name, ip if self._by_address else None
        )
