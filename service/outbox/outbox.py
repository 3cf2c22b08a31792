"""The delivery loop over a store.

What can go wrong: an entry is sent twice at once, or overtakes an earlier one of its customer; a thousand
entries try at once while Dub is down; an entry that always fails stands in the way of the others; one is
dropped although its caller was told that it is queued. So what is in hand is marked as taken, a lane has
one entry under way, attempts stop while the circuit breaker holds Dub's endpoint back, who fails goes back
with a time of its own, and only an entry whose caller still waits to hear of it is dropped.

Looking at the disk costs a commit, so it looks when something may have become due: not after every lead.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from service.background import Background
from service.outbox.policy import OutboxPolicy
from service.resolve.errors import DubCrowded, DubHeldBack, FirstopenError, StoreFailed
from service.resolve.owed import (
    INSTALL,
    Dead,
    Deliver,
    Delivered,
    Entries,
    Entry,
    Kind,
    Later,
    OwedOpen,
    Repeat,
    State,
    Status,
    Verdict,
)
from service.telemetry import Event, Log, Metrics, where

_KINDS: tuple[Kind, ...] = ("open", "lead", "sale")
_PAGE = 128
_POLL_S = 1.0  # a command line may have written, and opens are owed without a word
_SOON_S = 0.01
_EXPIRE_EVERY_S = 60.0
_LAUNCHES_A_TURN = 4
_encode = msgspec.json.Encoder().encode


Drops = Callable[[FirstopenError], bool]


@dataclass(slots=True)
class _Waiter:
    """A caller that waits for what becomes of its entry, and which errors it takes it back with."""

    heard: asyncio.Future[Verdict]
    drops: Drops


class DurableOutbox:
    """Fills ``resolve.owed.Outbox``. ``wall`` is Unix seconds; ``held``: for how long calls are held back."""

    def __init__(
        self,
        entries: Entries,
        *,
        apps: Sequence[str],
        held: Callable[[Kind, str], float],
        policy: OutboxPolicy,
        wall: Callable[[], float],
        log: Log,
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._entries = entries
        self._apps = apps
        self._held = held
        self._policy = policy
        self._wall = wall
        self._log = log
        self._metrics = metrics
        self._background = Background(log, metrics.background_failures)
        self._jitter = jitter
        self._deliver: Mapping[Kind, Deliver] = {}
        self._taken: set[str] = set()
        self._settled: set[str] = set()  # while the store is being read: what it says of these is old
        self._lanes: set[str] = set()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._draining = 0  # of these, those that no caller brought
        self._waiters: dict[str, _Waiter] = {}
        self._awaited: set[str] = set()  # openIds and names of installs that entries wait for
        self._awaited_since: set[str] = set()  # of these, those that came since the store was last asked
        self._releasing: set[asyncio.Task[None]] = set()
        self._followed: set[str] = set()  # lanes in which somebody waits for his turn
        self._look_at = 0.0
        self._wake = asyncio.Event()
        self._place = asyncio.Event()
        self._hasten = False
        self._loop: asyncio.Task[None] | None = None
        self._next_expiry = 0.0

    async def start(self, deliver: Mapping[Kind, Deliver]) -> None:
        """Begin to send what is queued."""
        self._deliver = deliver
        with contextlib.suppress(StoreFailed):
            self._awaited = await self._entries.awaited()
        self._loop = self._background.spawn(self._run(), "outbox")

    async def close(self) -> None:
        """Stop sending; what is under way stays queued."""
        tasks = [*self._running.values(), *self._releasing]
        if self._loop is not None:
            tasks.append(self._loop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def dub_is_back(self) -> None:
        """Try everything at once: Dub answers again."""
        self._hasten = True
        self._look_by(self._wall())

    async def submit(self, entry: Entry, *, wait_s: float, drops: Drops) -> Verdict | Repeat | None:
        """Write an entry down, send it, and wait for its first attempt; raises ``StoreFailed``."""
        self._taken.add(entry.id)
        try:
            added = await self._entries.add(entry)
        except BaseException:
            self._taken.discard(entry.id)
            raise
        if isinstance(added, Repeat):
            self._taken.discard(entry.id)
            self._look_by(self._wall())  # the earlier entry may have taken over this one's click
            return added
        if entry.waits_for:
            self._awaited.add(entry.waits_for)
            self._awaited_since.add(entry.waits_for)
        heard: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiters[entry.id] = _Waiter(heard, drops)
        try:
            if self._held(entry.kind, entry.app) > 0:
                error = DubHeldBack("circuit breaker open")
                if drops(error):
                    await self._forget(entry.id)
                else:
                    self._entries.set_down(entry.id)
                self._taken.discard(entry.id)
                return Later(error)
            if added or entry.waits_for or entry.lane in self._lanes:
                self._wait_for_its_turn(entry)
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
        await self._forget(entry_id)

    async def _forget(self, entry_id: str) -> None:
        """Remove an entry; nobody sends it meanwhile."""
        self._taken.add(entry_id)
        try:
            await self._entries.remove(entry_id)
        finally:
            self._taken.discard(entry_id)
            self._settled.add(entry_id)

    async def status(self, entry_id: str) -> Status | None:
        """Say where a lead or sale stands; raises ``StoreFailed``."""
        return await self._entries.status(entry_id)

    async def depths(self) -> tuple[dict[tuple[Kind, State], int], float]:
        """Count what is queued and what is dead, and say how old the oldest queued is, in seconds.

        Raises ``StoreFailed``.
        """
        oldest = await self._entries.oldest()
        return await self._entries.depths("queued", "dead"), 0 if oldest is None else self._wall() - oldest

    def owe(self, owed: OwedOpen, *, not_before_s: float = 0) -> None:
        """Write an open down, soon, to be reported to Dub later. An openId is queued once.

        One device may owe one link under two openIds (it asked before a restart and after): both are sent,
        for each has somebody who waits for its click, and Dub gives them the same one.
        """
        self._entries.owe(
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
        """Forget the open's entry: Dub has it; and let go what waited for its click."""
        self._entries.drop(open_id)
        self.let_go(open_id)

    def _wait_for_its_turn(self, entry: Entry) -> None:
        self._taken.discard(entry.id)
        if entry.waits_for:
            return
        self._followed.add(entry.lane)
        if entry.lane not in self._lanes:
            self._look_by(self._wall())

    def let_go(self, name: str, *, after_s: float = 0) -> None:
        """Send what waits for this open or install, so many seconds from now.

        In a shared store another replica may have taken a lead of this open. Of this install, too, but
        installs are let go with each of their opens: such a lead is found when it is next tried.
        """
        elsewhere = self._entries.is_shared and not name.startswith(INSTALL)
        if elsewhere or name in self._awaited:
            self._awaited.discard(name)
            task = self._background.spawn(self._release(name, self._wall() + after_s), "outbox_release")
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install; raises ``StoreFailed``."""
        return await self._entries.waiting(app)

    async def waits_in(self, lane: str) -> bool:
        """Return True if an entry of this lane waits for an open or install; raises ``StoreFailed``."""
        return await self._entries.waits_in(lane)

    async def _release(self, name: str, when: float) -> None:
        try:
            await self._entries.release(name, when)
        except StoreFailed:
            self._awaited.add(name)
        self._look_by(when)

    def _look_by(self, when: float) -> None:
        """Look at the disk at this time (Unix seconds) at the latest."""
        if when < self._look_at:
            self._look_at = when
            self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except StoreFailed:
                await asyncio.sleep(_POLL_S)
            except Exception as exc:  # noqa: BLE001  the loop must go on; the log names our mistake
                self._background.report(exc, "outbox")
                await asyncio.sleep(_POLL_S)

    async def _round(self) -> None:
        """Wait until something may be due, and send what is."""
        await self._pause()
        now = self._wall()
        self._look_at = now + _POLL_S
        if now >= self._next_expiry:
            self._next_expiry = now + _EXPIRE_EVERY_S
            await self._expire(now)
        if self._hasten:
            self._hasten = False
            await self._entries.hasten(now)
        due = await self._due(now)
        ready = deque(entry for entry in due if entry.id not in self._taken and entry.id not in self._settled)
        self._taken.update(entry.id for entry in ready)
        try:
            await self._send(ready)
        finally:
            self._taken.difference_update(entry.id for entry in ready)

    async def _expire(self, now: float) -> None:
        """Bury what is too old, and learn anew what entries wait for: some died, a command revived some."""
        expired = await self._entries.expire(now - self._policy.expiry_s, now)
        if expired:
            self._log.error(Event.OUTBOX_EXPIRED, entries=expired)
        self._awaited_since.clear()
        self._awaited = await self._entries.awaited() | self._awaited_since

    async def _pause(self) -> None:
        """Wait until it is time to look: for a second at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                while (wait_s := self._look_at - self._wall()) > 0:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()

    async def _due(self, now: float) -> Sequence[Entry]:
        """Ask for what is due, of kinds that Dub takes just now; see to it that no time is missed."""
        self._settled.clear()
        held_s = {(app, kind): self._held(kind, app) for app in self._apps for kind in _KINDS}
        held = [whose for whose, seconds in held_s.items() if seconds > 0]
        if held:
            self._look_by(now + min(held_s[whose] for whose in held))
        kinds = [kind for kind in _KINDS if any(held_s[app, kind] <= 0 for app in self._apps)]
        if not kinds:
            return ()
        limit = _PAGE + len(self._taken)
        due = await self._entries.due(kinds, now, limit, [whose for whose in held if whose[1] in kinds])
        if len(due) >= limit:
            self._look_by(now)
        return due

    async def _send(self, ready: deque[Entry]) -> None:
        """Send what was found, a few at a time and a few in each turn of the loop: answers go first."""
        launched = 0
        while ready:
            if self._draining >= self._policy.in_flight_max:
                self._place.clear()
                await self._place.wait()
            elif launched == _LAUNCHES_A_TURN:
                launched = 0
                await asyncio.sleep(0)
            else:
                entry = ready.popleft()
                if entry.id in self._settled:
                    self._taken.discard(entry.id)
                elif entry.lane in self._lanes:
                    self._followed.add(entry.lane)
                    self._taken.discard(entry.id)
                elif self._held(entry.kind, entry.app) > 0:
                    self._taken.discard(entry.id)
                else:
                    launched += 1
                    self._launch(entry, brought=False)

    def _launch(self, entry: Entry, *, brought: bool) -> None:
        self._lanes.add(entry.lane)
        self._draining += not brought
        self._running[entry.id] = self._background.spawn(
            self._attempt(entry, brought=brought), "outbox_attempt"
        )

    async def _attempt(self, entry: Entry, *, brought: bool) -> None:
        """Send an entry once. One that no caller ``brought`` may have others behind it, on disk."""
        follow = not brought
        try:
            verdict = await self._verdict(entry)
            dropped = self._tell(entry, verdict)
            with contextlib.suppress(StoreFailed):  # it is still queued then
                if dropped:
                    await self._entries.remove(entry.id)
                else:
                    self._settle(entry, verdict)
            follow = not brought and not isinstance(verdict, Later)
        finally:
            self._draining -= not brought
            self._lanes.discard(entry.lane)
            self._taken.discard(entry.id)
            self._settled.add(entry.id)
            del self._running[entry.id]
            self._place.set()
            if entry.lane in self._followed:
                self._followed.discard(entry.lane)
                follow = True
            if follow:
                self._look_by(self._wall())

    async def _verdict(self, entry: Entry) -> Verdict:
        try:
            return await self._deliver[entry.kind](entry)
        except StoreFailed as exc:
            return Later(exc)
        except Exception as exc:  # noqa: BLE001  nothing is lost by a mistake of ours: it is tried again
            self._metrics.background_failures.labels("outbox").inc()
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
        now = self._wall()
        match verdict:
            case Delivered():
                self._entries.finish(entry, "delivered", "", now)
                self._metrics.outbox_delivered.labels(entry.kind).inc()
                if entry.kind != "open":
                    self._log.info(Event.ENTRY_DELIVERED, kind=entry.kind, app=entry.app, id=entry.id)
            case Later(error=DubHeldBack() | DubCrowded()):
                self._entries.set_down(entry.id)  # it never left: it goes when the breaker lets it
            case Later():
                next_try = now + self._policy.delay_s(entry, verdict, self._jitter())
                self._entries.put_off(entry.id, next_try, _reason(verdict.error))
                self._look_by(max(next_try, now + _SOON_S))
            case Dead():
                self._entries.finish(entry, "dead", verdict.reason, now)
                self._metrics.outbox_dead.labels(entry.kind).inc()
                (self._log.info if verdict.organic else self._log.error)(
                    Event.ENTRY_DEAD, kind=entry.kind, app=entry.app, id=entry.id, reason=verdict.reason
                )


def _reason(error: FirstopenError) -> str:
    """Name an error for an operator; these messages hold statuses and codes, nothing of a person's."""
    return f"{type(error).__name__}: {error}"
