"""Opens in Valkey: who asks for an openId on another replica, or reports a sign-up there, finds them.

What can go wrong: a device with a thousand opens (the few that tell most are listed, by how much they tell);
a reader that overtakes what its own process is still writing (it waits for that).
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

from service.resolve.errors import StoreFailed
from service.resolve.model import Open
from service.store.records import Records, tells
from service.store.shared import only_if
from service.store.shared_clicks import crowd_key
from service.store.valkey import PREFIX, RECALL_S, WRITE_S, Behind, Command, Valkey

_LATEST = {2: 10, 1: 5, 0: 1}  # of an install, so many that tell so much
_AT = struct.Struct(">d")
_MS = 1000
_CROWD_MAX = 1024  # installs listed of a network; crowd_limit is 3


class SharedJournal:
    """Fills ``resolve.ports.Journal``; opens last ``ttl_s`` seconds, crowds ``window_s``.

    ``pending`` recalls an open as this process knows it; ``wall`` is Unix seconds.
    """

    def __init__(
        self,
        valkey: Valkey,
        behind: Behind,
        *,
        records: Records,
        pending: Callable[[str], Open | None],
        wall: Callable[[], float],
        ttl_s: float,
        window_s: float,
    ) -> None:
        self._valkey = valkey
        self._behind = behind
        self._records = records
        self._pending = pending
        self._wall = wall
        self._ttl_ms = int(ttl_s * _MS)
        self._crowd_ms = int(window_s * _MS)

    def keep(self, device: str, opened: Open, network: int | None) -> None:
        """Write an open down, soon; the same openId again replaces it."""
        at = self._wall()
        if network is not None:
            crowd = crowd_key(opened.app, network)
            self._behind.put(
                ("ZADD", crowd, "GT", int(at * _MS), device),
                ("ZREMRANGEBYRANK", crowd, 0, -_CROWD_MAX - 1),
                ("PEXPIRE", crowd, self._crowd_ms),
            )
        says = tells(opened)
        opens, record = _listed(device, says), _AT.pack(at) + self._records.of(opened)
        self._behind.put(
            ("SET", _open(opened.open_id), record, "PX", self._ttl_ms, *only_if(opened)),
            ("ZADD", opens, "NX", at, opened.open_id),
            ("ZREMRANGEBYRANK", opens, 0, -_LATEST[says] - 1),
            ("PEXPIRE", opens, self._ttl_ms),
        )

    async def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id; raises ``StoreFailed`` where this process does not know it either."""
        pending = self._pending(open_id)
        try:
            await self._behind.flush()
            (record,) = await self._valkey.ask("recall", [("GET", _open(open_id))], RECALL_S)
        except StoreFailed:
            if pending is None:
                raise
            return pending
        return pending if record is None else self._revived(record)

    async def of_device(self, devices: Sequence[str], *, behind: bool = True) -> list[Open]:
        """Recall a device's newest telling opens (under any of its names), newest first.

        Without ``behind``, what was kept in the last moment may be missing. Raises ``StoreFailed``.
        """
        if behind:
            await self._behind.flush()
        listed = await self._valkey.ask(
            "recall",
            [
                ("ZREVRANGE", _listed(device, says), 0, most - 1, "WITHSCORES")
                for device in devices
                for says, most in _LATEST.items()
            ],
            RECALL_S,
        )
        at_of = {open_id: at for each in listed for open_id, at in _scored(each)}
        if not at_of:
            return []
        newest = sorted(at_of, key=lambda open_id: -at_of[open_id])
        records = await self._valkey.ask("recall", [("GET", _open(each)) for each in newest], RECALL_S)
        revived = (self._revived(record) for record in records if record is not None)
        return [opened for opened in revived if opened is not None]

    async def sightings(self, app: str, since: float) -> list[tuple[int, str, float]]:  # noqa: ARG002
        """Return nothing: who opened from a network is asked for when somebody opens from there again."""
        return []

    async def ids(self, devices: Sequence[str]) -> list[str]:
        """Return the ids of a device's opens; raises ``StoreFailed``."""
        await self._behind.flush()
        asked: list[Command] = [
            ("ZRANGE", _listed(device, says), 0, -1) for device in devices for says in _LATEST
        ]
        listed = await self._valkey.ask("recall", asked, WRITE_S)
        return [open_id.decode() for each in listed for open_id in each]

    async def forget(self, devices: Sequence[str]) -> int:
        """Forget a device's opens; return how many. Raises ``StoreFailed``."""
        open_ids = set(await self.ids(devices))
        commands: list[Command] = [("DEL", _open(each)) for each in open_ids]
        lists: list[Command] = [("DEL", _listed(device, says)) for device in devices for says in _LATEST]
        removed = await self._valkey.ask("keep", [*commands, *lists], WRITE_S)
        return sum(removed[: len(commands)])

    def _revived(self, record: bytes) -> Open | None:
        if len(record) < _AT.size:
            return None
        (at,) = _AT.unpack_from(record)
        return self._records.revived(at, record[_AT.size :])


def _open(open_id: str) -> str:
    return f"{PREFIX}o:{open_id}"


def _listed(device: str, says: int) -> str:
    return f"{PREFIX}d:{device}:{says}"


def _scored(reply: Any) -> list[tuple[str, float]]:
    """Read members with scores, as either protocol version has them."""
    if reply and isinstance(reply[0], list | tuple):
        pairs = [(member, score) for member, score in reply]
    else:
        pairs = list(zip(reply[::2], reply[1::2], strict=True))
    return [(member.decode(), float(score)) for member, score in pairs]
