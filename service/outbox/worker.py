"""Deliver outbox entries to Dub and to backends, one attempt at a time for each ordering key.

What can go wrong: an entry is sent twice at the same time, or overtakes an earlier one of its key (the store
leases entries, and only the first of a key); a thousand entries are sent at the same time while Dub is down
(nothing is sent while Dub's circuit breaker is open, and retries are spread over time); an entry that always
fails blocks others, or one app's entries block other apps (each attempt has a time limit, and each app has a
share of every page); an entry is dropped after its caller was answered that it is queued (it is dropped only
while its caller still waits); a backend that stalls keeps leads or other backends waiting (each endpoint has
slots of its own); an unexpected exception stops the loop (it is logged and counted, and the loop
continues).
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec
from cachetools import LRUCache

from service.aio.tasks import cancel_all
from service.domain.errors import BulkheadFull, CircuitOpen, FirstopenError, StoreFailed
from service.domain.outbox_entries import (
    RENEW_EVERY_S,
    DeadLetter,
    Deliver,
    Delivered,
    DeliveryResult,
    Entry,
    Kind,
    QueuedOpen,
    Repeat,
    ReportDeath,
    RetryLater,
    State,
    Status,
)
from service.domain.ports import OutboxStore
from service.outbox import drain
from service.outbox.drain import Drain
from service.outbox.policy import WEBHOOK_EXPIRY_S, WEBHOOKS_MAX, OutboxPolicy
from service.telemetry import Event, Log, Metrics, where
from service.telemetry.background import Background

_SOON_S = 0.01
_EXPIRE_EVERY_S = 60.0
_SPREAD_S: Mapping[Kind, float] = {"lead": 2.0, "sale": 2.0, "open": 15.0}  # once Dub is back
_WEBHOOK_SPREAD_S = 15.0  # once an endpoint is back
_WEBHOOK_AFTER_S = 0.2  # so that many are taken with one commit, after they are written
_ORDERED: tuple[Kind, ...] = ("lead", "sale")  # kinds that share ordering keys
_BULKHEAD_RETRY_S = 0.5
_AWAITED_MAX = 10_000
_encode = msgspec.json.Encoder().encode

Drops = Callable[[FirstopenError], bool]


@dataclass(slots=True)
class _Waiter:
    """A caller that waits for the first attempt; for errors where ``drops`` is True, the entry is deleted."""

    first_result: asyncio.Future[DeliveryResult]
    drops: Drops


@dataclass(slots=True)
class _Attempt:
    """An entry that is being sent."""

    entry: Entry
    task: asyncio.Task[None]


class OutboxWorker:
    """Implements ``Outbox``. ``unix_time`` returns Unix seconds.

    ``apps`` may change: call ``add_apps`` then. ``retry_in_s`` returns for how many seconds entries of a kind
    and app must not be sent, ``webhooks_at_once`` how many webhooks of an app may be taken at once (None: any
    number).
    """

    def __init__(
        self,
        store: OutboxStore,
        *,
        apps: Collection[str],
        retry_in_s: Callable[[Kind, str], float],
        policy: OutboxPolicy,
        unix_time: Callable[[], float],
        log: Log,
        metrics: Metrics,
        webhooks_at_once: Callable[[str], int | None] = lambda _: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._apps = apps
        self._retry_in_s = retry_in_s
        self._policy = policy
        self._unix_time = unix_time
        self._log = log
        self._metrics = metrics
        self._background = Background(log, metrics.background_failures)
        self._jitter = jitter
        self._deliver: Mapping[Kind, Deliver] = {}
        self._running: dict[str, _Attempt] = {}
        self._waiters: dict[str, _Waiter] = {}
        self._keys_with_caller: set[str] = set()  # where a caller here waits behind an earlier entry
        # Opens and installs that entries of this process wait for: a hint to check immediately. Without it,
        # the next regular check finds them.
        self._awaited: LRUCache[str, bool] = LRUCache(_AWAITED_MAX)
        drain_of = partial(
            Drain,
            store=store,
            start=partial(self._launch, has_caller=False),
            undecryptable=self._report_undecryptable,
            unix_time=unix_time,
        )
        self._drain_of = drain_of
        self._drains = {
            kind: drain_of(
                kind,
                apps=apps,
                at_a_time=policy.replays_max if kind == "open" else policy.in_flight_max,
                spread_s=spread_s,
                retry_in_s=partial(retry_in_s, kind),
            )
            for kind, spread_s in _SPREAD_S.items()
        }
        self._webhooks_at_once = webhooks_at_once
        self._webhook_drains = {app: self._webhook_drain(app) for app in apps}
        self._report_death: ReportDeath | None = None
        self._next_expiry = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def add_apps(self) -> None:
        """Send the webhooks of apps that were added to ``apps``. Those of removed apps wait, and expire."""
        for app in self._apps:
            if app not in self._webhook_drains:
                added = self._webhook_drains[app] = self._webhook_drain(app)
                if self._tasks:
                    self._tasks.append(self._background.spawn(self._forever(added.round), "outbox"))

    def _webhook_drain(self, app: str) -> Drain:
        return self._drain_of(
            "webhook",
            apps=(app,),
            at_a_time=WEBHOOKS_MAX,
            spread_s=_WEBHOOK_SPREAD_S,
            retry_in_s=partial(self._retry_in_s, "webhook"),
            take_max=partial(self._webhooks_at_once, app),
        )

    @property
    def _all_drains(self) -> list[Drain]:
        return [*self._drains.values(), *self._webhook_drains.values()]

    async def start(self, deliver: Mapping[Kind, Deliver], report_death: ReportDeath) -> None:
        """Start sending queued entries. ``report_death`` builds the webhook about a lead that expires."""
        self._deliver = deliver
        self._report_death = report_death
        with contextlib.suppress(StoreFailed):
            await self._store.take_over()
        work = [self._renew, self._expire, *(drain.round for drain in self._all_drains)]
        self._tasks = [self._background.spawn(self._forever(each), "outbox") for each in work]

    async def close(self) -> None:
        """Stop sending. Unfinished entries stay queued, and another replica may send them immediately."""
        leased = [each.entry for each in self._running.values()]
        for each in self._all_drains:
            leased += each.stop()
        await cancel_all([*self._tasks, *(each.task for each in self._running.values())])
        for entry in leased:
            self._store.give_back(entry.id, entry.next_try)

    def dub_is_back(self) -> None:
        """Retry entries that failed, spread over some seconds, because Dub answers again."""
        for each in self._drains.values():
            each.receiver_is_back()

    def endpoint_is_back(self, app: str) -> None:
        """Retry webhooks that failed, spread over some seconds, because the app's endpoint works."""
        self._webhook_drains[app].receiver_is_back()

    async def submit(self, entry: Entry, *, wait_s: float, drops: Drops) -> DeliveryResult | Repeat | None:
        """Commit an entry, send it, and return the result of its first attempt.

        Return None if there is no result after ``wait_s`` seconds, and a ``Repeat`` for a lead that was
        reported before. If ``drops`` is True for the error of the attempt, the entry is deleted. Raises
        ``StoreFailed``.
        """
        is_refused = self._retry_in_s(entry.kind, entry.app) > 0
        added = await self._store.add(entry, leased=not (is_refused or entry.depends_on_open))
        if isinstance(added, Repeat):
            self._check_by(entry, self._unix_time())  # the earlier entry may have got this one's click
            return added
        first_result: asyncio.Future[DeliveryResult] = asyncio.get_running_loop().create_future()
        self._waiters[entry.id] = _Waiter(first_result, drops)
        try:
            if entry.depends_on_open:
                self._awaited[entry.depends_on_open] = True
            if is_refused:
                error = CircuitOpen("circuit breaker open")
                if drops(error):
                    await self._store.remove(entry.id)
                return RetryLater(error)
            if added.behind_another and not entry.depends_on_open:
                self._keys_with_caller.add(entry.ordering_key)
                self._give_back(entry, entry.next_try)
            elif not entry.depends_on_open:
                self._launch(entry, has_caller=True)
            async with asyncio.timeout(wait_s):
                return await first_result
        except TimeoutError:
            return None if first_result.cancelled() else first_result.result()
        finally:
            del self._waiters[entry.id]

    async def abandon(self, entry_id: str) -> None:
        """Delete an entry; cancel its attempt if it is being sent."""
        attempt = self._running.get(entry_id)
        if attempt is not None:
            await cancel_all([attempt.task])
        for each in self._all_drains:
            each.waiting.pop(entry_id, None)
        await self._store.remove(entry_id)

    async def status(self, entry_id: str) -> Status | None:
        """Return the status of a lead or sale, or None; raises ``StoreFailed``."""
        return await self._store.status(entry_id)

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install; raises ``StoreFailed``."""
        return await self._store.waiting(app)

    async def has_waiting_in(self, ordering_key: str) -> bool:
        """Return True if an entry of this key waits for an open or install; raises ``StoreFailed``."""
        return await self._store.has_waiting_in(ordering_key)

    async def depths(self) -> tuple[Mapping[tuple[Kind, State], int], Mapping[Kind, float]]:
        """Return the numbers of queued and dead entries, and the seconds that each kind's oldest waits.

        Raises ``StoreFailed``.
        """
        now, oldest = self._unix_time(), await self._store.oldest()
        return await self._store.depths("queued", "dead"), {kind: now - at for kind, at in oldest.items()}

    def enqueue_open(self, queued: QueuedOpen, *, not_before_s: float = 0) -> None:
        """Queue an open, to be reported to Dub later; an openId is queued only once.

        Two opens of one link by one device may be queued (from before and after a restart). Both are sent,
        because a caller waits for the click of each, and Dub returns the same click for both.
        """
        self._store.enqueue_open(
            Entry(
                id=queued.open_id,
                app=queued.app,
                kind="open",
                ordering_key=queued.key.hex(),
                created=queued.arrived,
                next_try=queued.arrived + not_before_s,
                subject=queued.device,
                payload=_encode(queued),
            )
        )

    def enqueue_webhook(self, entry: Entry) -> None:
        """Queue a webhook, once for each id. It is committed with what is written behind at the same time."""
        self._store.enqueue_webhook(entry)
        self._check_by(entry, entry.next_try)

    async def add_webhook(self, entry: Entry) -> None:
        """Commit a webhook, once for each id; raises ``StoreFailed``."""
        await self._store.add_webhook(entry)
        self._check_by(entry, entry.next_try)

    def confirm_open(self, open_id: str) -> None:
        """Delete the entry of an open that Dub has recorded, and send entries that wait for its click."""
        self._store.confirm_open(open_id)
        self.release_dependents(open_id)

    def release_dependents(self, name: str, *, after_s: float = 0) -> None:
        """Send the entries that wait for this open or install, ``after_s`` seconds from now.

        Any replica may have added them. While the database fails, this is done only for entries of this
        process, to leave room in the queue for opens that wait to be written; other entries are sent at their
        next scheduled attempt.
        """
        awaited = self._awaited.pop(name, False)
        if awaited or not self._store.is_failing:
            at = self._unix_time() + after_s
            self._store.release_dependents(name, at)
            if awaited:
                self._check_ordered(at)

    def _give_back(self, entry: Entry, next_attempt_at: float) -> None:
        """End the lease of an entry that was not attempted."""
        self._store.give_back(entry.id, next_attempt_at)
        self._check_by(entry, next_attempt_at, written=True)

    def _drain(self, entry: Entry) -> Drain:
        return self._webhook_drains[entry.app] if entry.kind == "webhook" else self._drains[entry.kind]

    def _check_by(self, entry: Entry, when: float, *, written: bool = False) -> None:
        """Check for due entries like this at this time (Unix seconds), but not in every loop iteration.

        Webhooks are not hurried: a check that must find what was just written is a commit of its own.
        """
        if entry.kind == "webhook":
            when, written = max(when, self._unix_time() + _WEBHOOK_AFTER_S), False
        self._drain(entry).check_by(max(when, self._unix_time() + _SOON_S), written=written)

    def _check_event(self, event: Entry | None) -> None:
        """Check for a webhook that was written behind."""
        if event is not None:
            self._check_by(event, event.next_try)

    def _check_ordered(self, when: float) -> None:
        """Check for the next entries of ordering keys."""
        at = max(when, self._unix_time() + _SOON_S)
        for kind in _ORDERED:
            self._drains[kind].check_by(at, written=True)

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except StoreFailed:
                await asyncio.sleep(drain.POLL_S)
            except Exception as exc:  # noqa: BLE001  reported, and the loop must continue
                self._background.report(exc, "outbox")
                await asyncio.sleep(drain.POLL_S)

    async def _renew(self) -> None:
        """Renew the leases of this process's entries."""
        await asyncio.sleep(RENEW_EVERY_S)
        waiting = (entry_id for each in self._all_drains for entry_id in each.waiting)
        await self._store.renew([*self._running, *waiting])

    async def _expire(self) -> None:
        """Turn expired entries into dead letters, every minute, also if the clock is set back."""
        now = self._unix_time()
        if not self._next_expiry - _EXPIRE_EVERY_S <= now < self._next_expiry:
            expired = await self._store.expire(
                now - self._policy.expiry_s,
                webhooks_before=now - WEBHOOK_EXPIRY_S,
                report=self._report_death,
            )
            self._next_expiry = now + _EXPIRE_EVERY_S
            if expired:
                self._log.error(Event.OUTBOX_EXPIRED, entries=expired)
        await asyncio.sleep(drain.POLL_S)

    def _report_undecryptable(self, count: int) -> None:
        self._metrics.outbox_undecryptable.inc(count)
        self._log.error(Event.ENTRY_UNDECRYPTABLE, entries=count)

    def _launch(self, entry: Entry, *, has_caller: bool) -> None:
        task = self._background.spawn(self._attempt(entry, has_caller=has_caller), "outbox_attempt")
        self._running[entry.id] = _Attempt(entry, task)

    async def _attempt(self, entry: Entry, *, has_caller: bool) -> None:
        """Send an entry once. An entry without a caller comes from the queue; its key may have a next one."""
        check_next = not has_caller
        try:
            result = await self._result(entry)
            if self._answer_caller(entry, result):
                with contextlib.suppress(StoreFailed):  # it is still queued then
                    await self._store.remove(entry.id)
            else:
                self._settle(entry, result)
            check_next = not has_caller and not isinstance(result, RetryLater)
        finally:
            del self._running[entry.id]
            if not has_caller:
                self._drain(entry).ended(entry)
            has_next_caller = entry.ordering_key in self._keys_with_caller
            self._keys_with_caller.discard(entry.ordering_key)
            if entry.kind in _ORDERED and (check_next or has_next_caller):
                self._check_ordered(self._unix_time())
            elif entry.kind == "webhook" and check_next:
                self._check_by(entry, self._unix_time())

    async def _result(self, entry: Entry) -> DeliveryResult:
        try:
            return await self._deliver[entry.kind](entry)
        except StoreFailed as exc:
            return RetryLater(exc)
        except Exception as exc:  # noqa: BLE001  the entry must not be lost by a bug: it is retried
            self._log.error(
                Event.OUTBOX_FAILED, kind=entry.kind, error=type(exc).__name__, where=where(exc), id=entry.id
            )
            return RetryLater(FirstopenError(type(exc).__name__))

    def _answer_caller(self, entry: Entry, result: DeliveryResult) -> bool:
        """Pass the result to the caller, if it still waits; return True if the entry must be deleted."""
        waiter = self._waiters.get(entry.id)
        if waiter is None or waiter.first_result.done():
            return False
        waiter.first_result.set_result(result)
        error = None if isinstance(result, Delivered) else result.error
        return error is not None and waiter.drops(error)

    def _settle(self, entry: Entry, result: DeliveryResult) -> None:
        now = self._unix_time()
        match result:
            case Delivered():
                self._store.finish(entry, "delivered", "", result.event)
                self._check_event(result.event)
                self._metrics.outbox_delivered.labels(entry.app, entry.kind).inc()
                if entry.kind in _ORDERED:
                    self._log.info(Event.ENTRY_DELIVERED, kind=entry.kind, app=entry.app, id=entry.id)
            case RetryLater(error=CircuitOpen() | BulkheadFull()):
                self._give_back(entry, now + _BULKHEAD_RETRY_S)  # not sent, so not counted as an attempt
            case RetryLater():
                next_attempt_at = now + self._policy.delay_s(entry, result, self._jitter())
                self._store.reschedule(entry.id, next_attempt_at, _reason(result.error))
                self._check_by(entry, next_attempt_at)
            case DeadLetter():
                self._store.finish(entry, "dead", result.reason, result.event)
                self._check_event(result.event)
                self._metrics.outbox_dead.labels(entry.app, entry.kind).inc()
                (self._log.info if result.organic else self._log.error)(
                    Event.ENTRY_DEAD, kind=entry.kind, app=entry.app, id=entry.id, reason=result.reason
                )


def _reason(error: FirstopenError) -> str:
    """Return an error for operators; these messages contain statuses and codes, no personal data."""
    return f"{type(error).__name__}: {error}"
