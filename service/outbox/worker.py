"""Delivers what must still reach Dub, one attempt at a time for each ordering key.

What can go wrong: an entry is sent twice at once, or overtakes an earlier one of its key (the store leases
entries, and only the first of a key); a thousand entries try at once while Dub is down (nothing is sent while
Dub's circuit breaker is open, and what failed comes back spread over time); an entry that always fails stands
in the way of others, or one app's storm in the way of other apps (each attempt has a time of its own, each
app a share of every look); an entry is dropped although its caller was told that it is queued (it is dropped
only while its caller waits to be told so); an unforeseen exception ends the loop (it is logged and counted,
and the loop goes on).
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from cachetools import TTLCache

from service.outbox.policy import OutboxPolicy
from service.resolve.errors import DubCrowded, DubHeldBack, FirstopenError, StoreFailed
from service.resolve.owed import (
    Dead,
    Deliver,
    Delivered,
    Entry,
    Kind,
    Later,
    OwedOpen,
    State,
    Status,
    Verdict,
)
from service.storage.outbox import DELAY_MAX_S, RENEW_EVERY_S, OutboxStore, TakenEntry
from service.telemetry import Event, Log, Metrics, where

KINDS: tuple[Kind, ...] = ("lead", "sale", "open")

_POLL_S = 1.0  # another replica, or a command line, may have queued something
_SOON_S = 0.01
_REPLAYS_AT_A_TIME = 8  # opens that are replayed; live opens go first
_EXPIRE_EVERY_S = 60.0
_SPREAD_S: Mapping[Kind, float] = {"lead": 2.0, "sale": 2.0, "open": 15.0}  # once Dub is back
_CROWDED_AGAIN_S = 0.5
_HINTS_MAX = 10_000
_encode = msgspec.json.Encoder().encode

Drops = Callable[[FirstopenError], bool]


@dataclass(slots=True)
class _Waiter:
    """A caller that waits for the first attempt, and which errors make it take its entry back."""

    heard: asyncio.Future[Verdict]
    drops: Drops


class OutboxWorker:
    """Fills ``Outbox``. ``unix_time`` is wall clock seconds; ``held``: for how long calls are held back."""

    def __init__(
        self,
        store: OutboxStore,
        *,
        apps: Sequence[str],
        held: Callable[[Kind, str], float],
        policy: OutboxPolicy,
        unix_time: Callable[[], float],
        log: Log,
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._apps = apps
        self._held = held
        self._policy = policy
        self._unix_time = unix_time
        self._log = log
        self._metrics = metrics
        self._jitter = jitter
        self._deliver: Mapping[Kind, Deliver] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._kinds: dict[str, Kind] = {}  # of those that no caller brought
        self._waiters: dict[str, _Waiter] = {}
        # what entries of this process wait for: a hint to look at once; the next look would find them too
        self._awaited: TTLCache[str, bool] = TTLCache(_HINTS_MAX, 600)
        self._look_at = 0.0
        self._wake = asyncio.Event()
        self._next_expiry = 0.0
        self._dub_is_back = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, deliver: Mapping[Kind, Deliver]) -> None:
        """Begin to send what is queued."""
        self._deliver = deliver
        with contextlib.suppress(StoreFailed):
            await self._store.take_over()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._renew())]

    async def close(self) -> None:
        """Stop sending; what is under way stays queued."""
        tasks = [*self._running.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def dub_is_back(self) -> None:
        """Try what failed again, spread over some seconds: Dub answers again."""
        self._dub_is_back = True
        self._look_by(self._unix_time())

    async def submit(self, entry: Entry, *, wait_s: float, drops: Drops) -> Verdict | None:
        """Commit an entry, send it, and wait for its first attempt; raises ``StoreFailed``."""
        behind_another = await self._store.add(entry)
        heard: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiters[entry.id] = _Waiter(heard, drops)
        try:
            if self._held(entry.kind, entry.app) > 0:
                return await self._hold(entry, drops)
            if entry.waits_for:
                self._awaited[entry.waits_for] = True
                self._give_back(entry, entry.next_try)
            elif behind_another:
                self._give_back(entry, self._unix_time())
            else:
                self._launch(entry, brought=True)
            async with asyncio.timeout(wait_s):
                return await heard
        except TimeoutError:
            return None if heard.cancelled() else heard.result()
        finally:
            del self._waiters[entry.id]

    async def abandon(self, entry_id: str) -> None:
        """Forget an entry; an attempt under way is given up."""
        task = self._running.get(entry_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._store.remove(entry_id)

    async def status(self, entry_id: str) -> Status | None:
        """Say where a lead or sale stands; raises ``StoreFailed``."""
        return await self._store.status(entry_id)

    async def depths(self) -> tuple[Mapping[tuple[Kind, State], int], float]:
        """Count what is queued and what is dead, and say how old the oldest queued is, in seconds.

        Raises ``StoreFailed``.
        """
        oldest = await self._store.oldest()
        return await self._store.depths("queued", "dead"), 0 if oldest is None else self._unix_time() - oldest

    def owe(self, owed: OwedOpen, *, not_before_s: float = 0) -> None:
        """Keep an open, soon, to be reported to Dub later. An openId is queued once."""
        self._store.enqueue_open(
            Entry(
                id=owed.open_id,
                app=owed.app,
                kind="open",
                lane=owed.key.hex(),
                created=owed.arrived,
                next_try=owed.arrived + not_before_s,
                whose=owed.device,
                payload=_encode(owed),
            )
        )

    def paid(self, open_id: str) -> None:
        """Forget the open's entry: Dub has it; and send what waited for its click."""
        self._store.confirm_open(open_id)
        self.let_go(open_id)

    def let_go(self, *names: str) -> None:
        """Send what waits for these opens or installs."""
        self._store.release_dependents(*names)
        if any(self._awaited.pop(name, False) for name in names):
            self._look_by(self._unix_time() + _SOON_S)

    async def _hold(self, entry: Entry, drops: Drops) -> Verdict:
        """Leave an entry queued, or take it back, while Dub is not called."""
        error = DubHeldBack("circuit breaker open")
        if drops(error):
            await self._store.remove(entry.id)
        else:
            self._give_back(entry, entry.next_try)
        return Later(error)

    def _give_back(self, entry: Entry, next_attempt_at: float) -> None:
        """End the lease of an entry that was not attempted."""
        self._store.reschedule(entry.id, next_attempt_at, "", attempted=False)
        self._look_by(max(next_attempt_at, self._unix_time() + _SOON_S))

    def _look_by(self, when: float) -> None:
        """Look for due entries at this time (Unix seconds) at the latest."""
        if when < self._look_at:
            self._look_at = when
            self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._pause()
                await self._round()
            except StoreFailed:
                await asyncio.sleep(_POLL_S)
            except Exception as exc:  # noqa: BLE001  the loop must go on; the log names our mistake
                self._log.error(Event.OUTBOX_FAILED, error=type(exc).__name__, where=where(exc))
                await asyncio.sleep(_POLL_S)

    async def _renew(self) -> None:
        """Keep the leases of entries under way."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            with contextlib.suppress(StoreFailed):
                await self._store.renew(list(self._running))

    async def _pause(self) -> None:
        """Wait until it is time to look: for a second at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                while (wait_s := self._look_at - self._unix_time()) > 0:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()

    async def _round(self) -> None:
        """Send what is due, of each kind and app as much as there is room for."""
        now = self._unix_time()
        self._look_at = now + _POLL_S
        await self._expire(now)
        if self._dub_is_back:
            self._dub_is_back = False
            for kind, spread_s in _SPREAD_S.items():
                self._store.due_soon(kind, spread_s)
        for kind in KINDS:
            apps = [app for app in self._apps if self._held(kind, app) <= 0]
            room = self._room(kind)
            if not apps or room <= 0 or not await self._store.has_due(kind):
                continue
            taken = await self._store.take_due(kind, apps, room)
            for each in taken:
                self._begin(each)
            if len(taken) >= room:
                self._look_by(now)  # when one of them ends, see _attempt

    async def _expire(self, now: float) -> None:
        if now < self._next_expiry:
            return
        self._next_expiry = now + _EXPIRE_EVERY_S
        expired = await self._store.expire(now - self._policy.expiry_s)
        if expired:
            self._log.error(Event.OUTBOX_EXPIRED, entries=expired)

    def _room(self, kind: Kind) -> int:
        """Return how many more entries of a kind may be under way."""
        at_a_time = _REPLAYS_AT_A_TIME if kind == "open" else self._policy.in_flight_max
        return at_a_time - sum(each == kind for each in self._kinds.values())

    def _begin(self, taken: TakenEntry) -> None:
        if taken.entry is not None:
            self._launch(taken.entry, brought=False)
            return
        self._metrics.outbox_undecryptable.inc()
        self._log.error(Event.ENTRY_UNDECRYPTABLE, kind=taken.kind, id=taken.id)
        self._store.reschedule(taken.id, self._unix_time() + DELAY_MAX_S, "undecryptable", attempted=False)

    def _launch(self, entry: Entry, *, brought: bool) -> None:
        if not brought:
            self._kinds[entry.id] = entry.kind
        self._running[entry.id] = asyncio.create_task(self._attempt(entry))

    async def _attempt(self, entry: Entry) -> None:
        """Send an entry once."""
        try:
            verdict = await self._verdict(entry)
            if self._tell(entry, verdict):
                with contextlib.suppress(StoreFailed):  # it is still queued then
                    await self._store.remove(entry.id)
            else:
                self._settle(entry, verdict)
        finally:
            self._kinds.pop(entry.id, None)
            del self._running[entry.id]
        if not isinstance(verdict, Later):
            self._look_by(self._unix_time())  # others of its key, or of a full worker

    async def _verdict(self, entry: Entry) -> Verdict:
        try:
            return await self._deliver[entry.kind](entry)
        except StoreFailed as exc:
            return Later(exc)
        except Exception as exc:  # noqa: BLE001  nothing is lost by a mistake of ours: it is tried again
            self._log.error(
                Event.OUTBOX_FAILED, kind=entry.kind, error=type(exc).__name__, where=where(exc), id=entry.id
            )
            return Later(FirstopenError(type(exc).__name__))

    def _tell(self, entry: Entry, verdict: Verdict) -> bool:
        """Tell the caller, if it still waits; return whether it takes the entry back with an error."""
        waiter = self._waiters.get(entry.id)
        if waiter is None or waiter.heard.done():
            return False
        waiter.heard.set_result(verdict)
        error = None if isinstance(verdict, Delivered) else verdict.error
        return error is not None and waiter.drops(error)

    def _settle(self, entry: Entry, verdict: Verdict) -> None:
        now = self._unix_time()
        match verdict:
            case Delivered():
                self._store.finish(entry, "delivered", "")
                self._metrics.outbox_delivered.labels(entry.kind).inc()
                if entry.kind != "open":
                    self._log.info(Event.ENTRY_DELIVERED, kind=entry.kind, app=entry.app, id=entry.id)
            case Later(error=DubHeldBack() | DubCrowded()):
                self._give_back(entry, now + _CROWDED_AGAIN_S)  # it never left: no attempt
            case Later():
                next_attempt_at = now + self._policy.delay_s(entry, verdict, self._jitter())
                self._store.reschedule(entry.id, next_attempt_at, _reason(verdict.error))
                self._look_by(max(next_attempt_at, now + _SOON_S))
            case Dead():
                self._store.finish(entry, "dead", verdict.reason)
                self._metrics.outbox_dead.labels(entry.kind).inc()
                (self._log.info if verdict.organic else self._log.error)(
                    Event.ENTRY_DEAD, kind=entry.kind, app=entry.app, id=entry.id, reason=verdict.reason
                )


def _reason(error: FirstopenError) -> str:
    """Name an error for an operator; these messages hold statuses and codes, and nothing personal."""
    return f"{type(error).__name__}: {error}"
