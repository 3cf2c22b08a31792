"""The outbox's entries in Valkey, shared by replicas; what they carry is sealed.

What is due goes into a stream and is pending there for the replica that sends it. What can go wrong: that
replica is killed (after ``ABANDONED_S`` another one takes what was pending); it only stood still (before it
sends on, it asks what is still its own); two replicas send for one customer (only the first of a lane is ever
due). A script does each step as a whole; all keys are on one shard of a Cluster.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from service.resolve.errors import StoreFailed
from service.resolve.owed import REPEAT_S, Entry, Kind, Repeat, State, Status, Summary
from service.store.sealing import Seal, Unsealable
from service.store.valkey import BEHIND_S, PREFIX, WRITE_S, Behind, Command, Script, Valkey

ABANDONED_S = 15.0
KEY = f"{PREFIX}{{outbox}}"

_BEAT_S = 4.0
_PAGE = 1000
_AT_A_TIME = 250
_STEPS_MAX = 100
_DEAD_S = 90 * 86_400.0  # for which dead letters are kept
_KINDS: tuple[Kind, ...] = ("open", "lead", "sale")
_SETS: dict[State, str] = {"queued": "queued", "delivered": "delivered", "dead": "gone"}
_SCRIPT = Script(Path(__file__).with_name("outbox.lua").read_text(encoding="utf-8"))
_SUMMARY = ("id", "app", "kind", "state", "created", "next_try", "attempts", "waits_for", "reason")


class SharedEntries:
    """Fills ``resolve.owed.Entries``. ``clock`` is monotonic seconds."""

    is_shared = True

    def __init__(
        self, valkey: Valkey, seal: Seal, clock: Callable[[], float], abandoned_s: float = ABANDONED_S
    ) -> None:
        self._valkey = valkey
        self._behind = Behind(valkey, "outbox")
        self._seal = seal
        self._clock = clock
        self._abandoned_ms = int(abandoned_s * 1000)
        self._beat_s = min(_BEAT_S, abandoned_s / 4)
        self._consumer = secrets.token_hex(8)
        self._mine: dict[str, Entry] = {}
        self._last_beat = clock()
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write, and to say what is in hand."""
        self._behind.start()
        self._beating = asyncio.create_task(self._beat_on())

    async def close(self) -> None:
        """Leave what is in hand to others."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._beating is not None:
            for some in _batches(self._mine):
                self._behind.put(self._command("set_down", self._consumer, *some))
            self._behind.put(self._command("leave", self._consumer))
        await self._behind.close()

    async def add(self, entry: Entry) -> bool | Repeat:
        """Keep an entry; return whether an earlier one of its lane is still queued, or what it repeats."""
        await self._behind.flush()
        repeat = await self._reported(entry)
        if repeat is not None:
            return repeat
        try:
            earlier = await self._do("add", "add", self._consumer, *self._fields(entry))
        except StoreFailed:
            self._behind.put(self._command("refuse", entry.id))  # it may get there all the same
            raise
        if not earlier and not entry.waits_for:
            self._mine[entry.id] = entry
        return bool(earlier)

    async def _reported(self, entry: Entry) -> Repeat | None:
        """Find the entry as which this lead was reported before; else remember that this is it."""
        keys = entry.keys
        for key in filter(None, (keys.idempotency, keys.event)):
            name, value = f"{KEY}:same:{key}", f"{entry.id} {keys.body}"
            (before,) = await self._read(("SET", name, value, "NX", "GET", "EX", int(REPEAT_S)))
            if before is None:
                continue
            entry_id, _, body = before.decode().partition(" ")
            status = await self.status(entry_id)
            if status is not None and status.state != "dead":
                same_body = key == keys.event or body == keys.body
                return Repeat(entry_id, status.state, same_body=same_body)
            await self._read(("SET", name, value, "EX", int(REPEAT_S)))
        return None

    async def move(self, entry: Entry) -> None:
        """Keep an entry that was kept elsewhere meanwhile, whether it was refused here or not."""
        await self._behind.flush()
        await self._do("add", "move", self._consumer, *self._fields(entry))

    def settled(self, entry: Entry, state: State, reason: str, now: float) -> None:
        """Note, soon, what became of an entry that was kept elsewhere."""
        self._behind.put(self._command("settled", self._consumer, state, reason, now, *self._fields(entry)))

    def owe(self, entry: Entry) -> None:
        """Keep an open soon, unless one of its lane is queued already."""
        self._behind.put(self._command("add", "owe", self._consumer, *self._fields(entry)))

    def drop(self, entry_id: str) -> None:
        """Forget, soon, an open: Dub has it."""
        self._mine.pop(entry_id, None)
        self._behind.put(self._command("drop", entry_id))

    async def due(
        self, kinds: Collection[Kind], now: float, limit: int, held: Collection[tuple[str, Kind]]
    ) -> Sequence[Entry]:
        """Take queued entries that may be tried, and return all that are in hand; none of the ``held``."""
        await self._behind.flush()
        if self._clock() - self._last_beat > self._beat_s * 2:
            await self._beat()
        in_hand = Counter(entry.kind for entry in self._mine.values())
        room = {kind: limit - in_hand[kind] for kind in kinds if limit > in_hand[kind]}
        if room:
            await self._take(room, now, held)
        return [
            entry
            for entry in self._mine.values()
            if entry.kind in kinds and (entry.app, entry.kind) not in held
        ]

    async def _take(self, room: Mapping[Kind, int], now: float, held: Collection[tuple[str, Kind]]) -> None:
        rooms = " ".join(f"{kind}:{most}" for kind, most in room.items())
        shelves = [f"{kind}:{app}" for app, kind in held]
        taken = await self._do(
            "due", self._consumer, rooms, now, max(room.values()), self._abandoned_ms, *shelves
        )
        for row in taken:
            entry_id = row[0].decode()
            try:
                self._mine[entry_id] = self._entry(row)
            except Unsealable as exc:
                self._behind.put(self._command("finish", entry_id, "dead", str(exc), now))

    async def hasten(self, now: float) -> None:
        """Make every queued entry due that waits for nothing but Dub."""
        while await self._do("hasten", now, _PAGE):
            continue

    async def release(self, name: str, now: float) -> None:
        """Make due what waited for this open or install, whichever replica took it."""
        self._behind.put(self._command("release", name, now))

    async def awaited(self) -> set[str]:
        """Return nothing: whoever settles an open releases what waits for it, here or on another replica."""
        return set()

    async def waiting(self, app: str) -> int:  # noqa: ARG002  not counted by app
        """Count the leads that are queued, whatever they wait for: no fewer than wait for an install."""
        return (await self.depths("queued")).get(("lead", "queued"), 0)

    async def waits_in(self, lane: str) -> bool:  # noqa: ARG002  what waits holds its lane back
        """Return False: what is tried is the first of its lane."""
        return False

    def put_off(self, entry_id: str, next_try: float, reason: str) -> None:
        """Note, soon, a failed attempt."""
        self._mine.pop(entry_id, None)
        self._behind.put(self._command("put_off", entry_id, next_try, reason))

    def set_down(self, entry_id: str) -> None:
        """Leave, soon, what was not sent after all to whoever looks next: hands hold only so much."""
        if self._mine.pop(entry_id, None) is not None:
            self._behind.put(self._command("set_down", self._consumer, entry_id))

    def finish(self, entry: Entry, state: State, reason: str, now: float) -> None:
        """Note, soon, that an entry is delivered (its contents go) or dead (they stay sealed)."""
        self._mine.pop(entry.id, None)
        self._behind.put(self._command("finish", entry.id, state, reason, now))

    async def remove(self, entry_id: str) -> None:
        """Forget an entry."""
        self._mine.pop(entry_id, None)
        await self._behind.flush()
        await self._do("remove", entry_id)

    async def expire(self, before: float, now: float) -> int:
        """Bury what was queued before, forget what was delivered before; return how many died.

        In steps that hold nobody else up for long; what is left after many of them has time until the next.
        """
        await self._behind.flush()
        expired = 0
        for _ in range(_STEPS_MAX):
            died, more = await self._do("expire", before, before - _DEAD_S, now, _AT_A_TIME)
            expired += died
            if not more:
                break
        return expired

    async def status(self, entry_id: str) -> Status | None:
        """Say where an entry stands."""
        await self._behind.flush()
        (found,) = await self._read(("HMGET", _entry_key(entry_id), "app", "kind", "state", "reason"))
        return None if found[0] is None else Status(*(each.decode() for each in found))

    async def depths(self, *states: State) -> dict[tuple[Kind, State], int]:
        """Count the entries in these states, by kind and state."""
        await self._behind.flush()
        pairs = [(kind, state) for state in states for kind in _KINDS]
        counts = await self._read(*(("ZCARD", f"{KEY}:{_SETS[state]}:{kind}") for kind, state in pairs))
        return {pair: count for pair, count in zip(pairs, counts, strict=True) if count}

    async def oldest(self) -> float | None:
        """Return when the oldest queued entry was made."""
        await self._behind.flush()
        firsts = await self._read(*(("ZRANGE", f"{KEY}:queued:{kind}", 0, 0) for kind in _KINDS))
        ids = [each[0].decode() for each in firsts if each]
        if not ids:
            return None
        made = await self._read(*(("HGET", _entry_key(each), "created") for each in ids))
        return min((float(each) for each in made if each is not None), default=None)

    async def listed(self, state: State, limit: int) -> list[Summary]:
        """List entries of a state, oldest first."""
        await self._behind.flush()
        found = await self._read(
            *(("ZRANGE", f"{KEY}:{_SETS[state]}:{kind}", 0, limit - 1) for kind in _KINDS)
        )
        ids = [each.decode() for some in found for each in some]
        if not ids:
            return []
        rows = await self._read(*(("HMGET", _entry_key(each), *_SUMMARY) for each in ids))
        listed = [_summary(row) for row in rows if row[0] is not None]
        return sorted(listed, key=lambda each: each.created)[:limit]

    async def found(self, entry_id: str) -> tuple[Summary, bytes | None] | None:
        """Find one entry, with what it carries sealed (``None`` if that is gone)."""
        await self._behind.flush()
        (row,) = await self._read(("HMGET", _entry_key(entry_id), *_SUMMARY, "sealed"))
        if row[0] is None:
            return None
        return _summary(row[:-1]), row[-1]

    def reveal(self, sealed: bytes) -> bytes:
        """Open what an entry carries; raises ``Unsealable``."""
        return self._seal.open(sealed)

    async def forget(self, whose: Sequence[str]) -> int:
        """Forget what is kept for these devices and openIds, whatever its state; return how many."""
        await self._behind.flush()
        return cast("int", await self._do("forget", *whose))

    async def revive(self, entry_id: str | None, now: float) -> int:
        """Queue a dead letter again, or all of them; return how many."""
        await self._behind.flush()
        if entry_id is not None:
            return cast("int", await self._do("revive", entry_id, now))
        revived = 0
        for kind in _KINDS:
            (ids,) = await self._read(("ZRANGE", f"{KEY}:gone:{kind}", 0, -1))
            for each in ids:
                revived += await self._do("revive", each, now)
        return revived

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            try:
                await self._beat()
            except StoreFailed:
                continue

    async def _beat(self) -> None:
        """Say what is in hand, and let go of what another replica has taken."""
        began = self._clock()
        for some in _batches(self._mine):
            for lost in await self._do("beat", self._consumer, *some):
                self._mine.pop(lost.decode(), None)
        self._last_beat = began

    async def _do(self, *args: Any) -> Any:
        timeout_s = WRITE_S if args[0] == "add" else BEHIND_S
        return (await self._valkey.ask("outbox", [self._command(*args)], timeout_s))[0]

    async def _read(self, *commands: Command) -> list[Any]:
        return await self._valkey.ask("outbox", commands, WRITE_S)

    def _command(self, *args: Any) -> Command:
        return _SCRIPT.command(KEY, *args)

    def _fields(self, entry: Entry) -> tuple[Any, ...]:
        return (
            entry.id,
            entry.app,
            entry.kind,
            entry.lane,
            entry.waits_for,
            repr(entry.created),
            repr(entry.next_try),
            entry.attempts,
            entry.whose,
            self._seal.seal(entry.payload),
        )

    def _entry(self, row: list[bytes]) -> Entry:
        entry_id, app, kind, lane, waits_for, created, next_try, attempts, whose = (
            each.decode() for each in row[:-1]
        )
        return Entry(
            id=entry_id,
            app=app,
            kind=cast("Kind", kind),
            lane=lane,
            waits_for=waits_for,
            created=float(created),
            next_try=float(next_try),
            attempts=int(attempts),
            whose=whose,
            payload=self._seal.open(row[-1]),
        )


def _batches(ids: Collection[str]) -> list[tuple[str, ...]]:
    """Split what a script is told: it takes some thousand arguments at most, and nobody else has a turn."""
    every = tuple(ids)
    return [every[at : at + _AT_A_TIME] for at in range(0, len(every), _AT_A_TIME)]


def _entry_key(entry_id: str) -> str:
    return f"{KEY}:e:{entry_id}"


def _summary(row: Sequence[bytes]) -> Summary:
    entry_id, app, kind, state, created, next_try, attempts, waits_for, reason = (
        each.decode() for each in row
    )
    return Summary(
        entry_id,
        app,
        cast("Kind", kind),
        cast("State", state),
        float(created),
        float(next_try),
        int(attempts),
        waits_for,
        reason,
    )
