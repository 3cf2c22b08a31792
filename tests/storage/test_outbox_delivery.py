"""The delivery loop over the real store, with a scripted Dub and a clock that moves when told to."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from random import Random
from typing import Any

import pytest

from service.domain.errors import (
    BulkheadFull,
    CircuitOpen,
    DubFailed,
    DubRefused,
    DubThrottled,
    FirstopenError,
    StoreFailed,
)
from service.domain.outbox_entries import (
    DeadLetter,
    Delivered,
    DeliveryResult,
    Entry,
    Kind,
    QueuedOpen,
    Repeat,
    RetryLater,
    State,
    Summary,
)
from service.outbox.drain import _PAGES
from service.outbox.policy import OutboxPolicy
from service.outbox.worker import OutboxWorker
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.errors import EngineUnavailable
from service.storage.outbox import SqlOutboxStore
from service.telemetry import Metrics, configure_logs
from tests.support import FakeClock, LogLines, until

POLICY = OutboxPolicy(in_flight_max=4, replays_max=4, expiry_s=6 * 86_400)
DAY_S = 86_400
SOON_S = 5.0
KINDS: tuple[Kind, ...] = ("open", "lead", "sale")
DOWN = RetryLater(DubFailed(503))
REFUSED = DubRefused(404, "not_found", "no such click")
TICK_S = 0.002  # the database knows milliseconds


class Lab:
    """An outbox over a real store, and a Dub that answers by script (else with a delivery)."""

    def __init__(self, database: Database, clock: FakeClock, logs: LogLines) -> None:
        self.clock = clock
        self.log = configure_logs("debug", logs)
        self.database = database
        self.store = self.store_of("a secret")
        self.jitter = 1.0
        self.held: dict[Kind, float] = {}
        self.script: dict[str, list[DeliveryResult | Exception]] = defaultdict(list)
        self.blocked: asyncio.Event | None = None
        self.attempts: list[str] = []
        self.under_way: Counter[str] = Counter()
        self.most_at_once = 0
        self.rounds: Counter[str] = Counter()
        self.outbox = self.new_outbox()

    def store_of(self, secret: str) -> SqlOutboxStore:
        return SqlOutboxStore(self.database, Cipher([secret]), self.clock.unix_time)

    def new_outbox(self) -> OutboxWorker:
        outbox = OutboxWorker(
            self.store,
            apps=("acme",),
            retry_in_s=lambda kind, _: self.held.get(kind, 0),
            policy=POLICY,
            unix_time=self.clock.unix_time,
            log=self.log,
            metrics=Metrics(),
            jitter=lambda: self.jitter,
        )
        for kind, drain in outbox._drains.items():
            setattr(drain, "round", self.counted(kind, drain.round))  # noqa: B010  mypy knows it as a method
        setattr(outbox, "_expire", self.counted("expiry", outbox._expire))  # noqa: B010
        return outbox

    def counted(self, name: str, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Count how often a part of the loop has run to its end."""

        async def run() -> None:
            try:
                await work()
            finally:
                self.rounds[name] += 1

        return run

    async def start(self) -> None:
        deliver = dict.fromkeys(KINDS, self.deliver)
        await self.outbox.start(deliver, lambda _, __: None)

    async def restart(self) -> None:
        """Stop, and start with nothing in memory."""
        await self.outbox.close()
        self.outbox = self.new_outbox()
        await self.start()

    async def deliver(self, entry: Entry) -> DeliveryResult:
        self.attempts.append(entry.id)
        self.under_way[entry.ordering_key] += 1
        self.most_at_once = max(self.most_at_once, self.under_way.total())
        assert self.under_way[entry.ordering_key] == 1, "two of one ordering key at once"
        try:
            await asyncio.sleep(0)
            if self.blocked is not None:
                await self.blocked.wait()
        finally:
            self.under_way[entry.ordering_key] -= 1
        verdicts = self.script[entry.id]
        result = verdicts.pop(0) if verdicts else Delivered(entry.payload)
        if isinstance(result, Exception):
            raise result
        return result

    def entry(self, name: str, ordering_key: str = "", kind: Kind = "lead", **fields: Any) -> Entry:
        now = self.clock.unix_time()
        given = {"app": "acme", "created": now, "next_try": now, "payload": b"{}", **fields}
        return Entry(id=name, ordering_key=ordering_key or name, kind=kind, **given)

    async def submit(
        self, name: str, ordering_key: str = "", wait_s: float = SOON_S, **fields: Any
    ) -> DeliveryResult | Repeat | None:
        return await self.outbox.submit(self.entry(name, ordering_key, **fields), wait_s=wait_s, drops=never)

    async def queue(self, *names: str, ordering_key: str = "") -> None:
        """Write entries down without sending them."""
        for name in names:
            await self.store.add(self.entry(name, ordering_key), leased=False)

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, and the loop notice."""
        self.clock.advance(seconds)
        await self.settled()

    async def settled(self) -> None:
        """Wait until the loop has nothing more to do for now."""
        quiet = 0
        while quiet < 2:
            before = len(self.attempts)
            await self.database.write()
            # twice: a part that was at work already has not seen everything
            awaited = {part: self.rounds[part] + 2 for part in (*KINDS, "expiry")}
            self.look()
            await until(partial(self._have_looked, awaited))
            quiet = quiet + 1 if before == len(self.attempts) and not self.outbox._running else 0

    def _have_looked(self, awaited: Mapping[str, int]) -> bool:
        return all(self.rounds[part] >= rounds for part, rounds in awaited.items())

    def look(self) -> None:
        """Let the loop look at the store."""
        for drain in self.outbox._drains.values():
            drain.check_by(0.0)

    async def state(self, name: str) -> State | None:
        status = await self.store.status(name)
        return None if status is None else status.state

    async def depths(self, *states: State) -> dict[tuple[Kind, State], int]:
        await self.database.write()
        return await self.store.depths(*states)

    async def seen(self, name: str) -> Summary:
        await self.database.write()
        found = await self.store.found(name)
        assert found is not None
        return found[0]


def never(_: FirstopenError) -> bool:
    return False


def always(_: FirstopenError) -> bool:
    return True


def owed(open_id: str, key: bytes = b"k") -> QueuedOpen:
    return QueuedOpen(
        open_id=open_id,
        app="acme",
        key=key,
        device="d",
        deep_link="https://acme.link/x",
        user_agent="okhttp",
        ip=None,
        arrived=FakeClock().unix_time(),
        platform=None,
        app_version=None,
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loop look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
async def lab(database: Database, clock: FakeClock, logs: LogLines) -> AsyncIterator[Lab]:
    lab = Lab(database, clock, logs)
    await lab.start()
    yield lab
    if lab.blocked is not None:
        lab.blocked.set()
    await lab.outbox.close()


async def test_what_dub_takes_is_delivered(lab: Lab, logs: LogLines) -> None:
    """The caller gets Dub's answer; what the entry carried is gone, its status stays."""
    assert await lab.submit("a", payload=b"anna@example.com") == Delivered(b"anna@example.com")
    assert await lab.state("a") == "delivered"
    await lab.database.write()
    found = await lab.store.found("a")
    assert found is not None
    assert found[1] is None
    assert [line["id"] for line in logs.events("outbox.delivered")] == ["a"]


async def test_an_entry_is_committed_before_it_is_sent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be written down, nothing is sent, and its caller hears of it."""

    async def full(*_: Any, **__: Any) -> Any:
        raise StoreFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(lab.database, "write_row", full)
        with pytest.raises(StoreFailed):
            await lab.submit("a")
    await lab.settled()
    assert lab.attempts == []


async def test_a_caller_waits_no_longer_than_it_can(lab: Lab) -> None:
    """After that the entry is sent all the same."""
    lab.blocked = asyncio.Event()
    assert await lab.submit("a", wait_s=0.02) is None
    assert await lab.state("a") == "queued"
    lab.blocked.set()
    await lab.settled()
    assert (lab.attempts, await lab.state("a")) == (["a"], "delivered")


async def test_a_customers_entries_go_one_after_another(lab: Lab) -> None:
    """Reported at once, they are sent in the order in which they were written down, never two at a time."""
    names = [f"{number}" for number in range(10)]
    outcomes = await asyncio.gather(*(lab.submit(name, "anna") for name in names))
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 10
    assert lab.attempts == names
    assert lab.most_at_once == 1


async def test_an_entry_that_fails_holds_its_customers_back_and_no_others(lab: Lab) -> None:
    """Later ones of the same customer wait for it, through a restart too; others pass by."""
    lab.script["a1"] = [DOWN] * 4
    assert await lab.submit("a1", "anna") == DOWN
    assert await lab.submit("a2", "anna", wait_s=0.02) is None
    assert await lab.submit("b1", "ben") == Delivered(b"{}")
    await lab.restart()
    for _ in range(4):
        await lab.pass_by(11)
    assert [name for name in lab.attempts if name.startswith("a")] == ["a1"] * 5 + ["a2"]


async def test_an_open_is_queued_once(lab: Lab) -> None:
    """However often it is owed; and not any more once Dub has it."""
    for _ in range(3):
        lab.outbox.enqueue_open(owed("one"), not_before_s=10)
    await lab.settled()
    assert [entry.id for entry in await lab.store.listed("queued", 10)] == ["one"]
    lab.outbox.confirm_open("one")
    await lab.pass_by(20)
    assert (lab.attempts, await lab.state("one")) == ([], None)


async def test_one_link_of_one_device_under_two_ids_is_sent_for_both(lab: Lab) -> None:
    """Owed before a restart and after it: paying one settles one, and each has its turn, in order."""
    lab.held["open"] = 60
    lab.outbox.enqueue_open(owed("before"))
    lab.outbox.enqueue_open(owed("after"))
    lab.outbox.enqueue_open(owed("paid"))
    lab.outbox.confirm_open("paid")
    await lab.settled()
    lab.held.clear()
    await lab.pass_by(1)
    assert lab.attempts == ["before", "after"]
    assert await lab.depths("queued") == {}


async def test_opens_go_in_time_order(lab: Lab) -> None:
    """The oldest first."""
    lab.held["open"] = 60
    names = [f"{number:02}" for number in range(30)]
    for name in names:
        lab.outbox.enqueue_open(owed(name, name.encode()))
        lab.clock.advance(0.01)
    await lab.settled()
    lab.held.clear()
    await lab.pass_by(1)
    assert lab.attempts == names


async def test_a_lead_waits_for_its_open(lab: Lab) -> None:
    """It is sent as soon as its open is settled, not before, not because Dub is back, not once too often."""
    later = lab.clock.unix_time() + 30
    first = asyncio.create_task(lab.submit("a", depends_on_open="open-1", next_try=later, wait_s=SOON_S))
    other = asyncio.create_task(lab.submit("b", depends_on_open="open-2", next_try=later, wait_s=2))
    await until(lambda: len(lab.outbox._awaited) == 2)
    lab.outbox.dub_is_back()
    await lab.settled()
    assert lab.attempts == []
    lab.outbox.confirm_open("open-1")
    assert await first == Delivered(b"{}")
    assert (lab.attempts, await other) == (["a"], None)


async def test_a_waiting_lead_is_found_again_after_a_crash(lab: Lab) -> None:
    """Its open may be settled after the restart, or have been before it without a word: both send it."""
    later = lab.clock.unix_time() + 30
    for name in ("a", "b"):
        entry = lab.entry(name, depends_on_open=f"open-{name}", next_try=later)
        await lab.store.add(entry, leased=False)
    await lab.restart()
    lab.outbox.release_dependents("open-a")
    await lab.settled()
    assert lab.attempts == ["a"]
    await lab.pass_by(30)
    assert lab.attempts == ["a", "b"]


@pytest.mark.parametrize(
    ("jitter", "delays"),
    [
        (1.0, [0.5, 1, 2, 4, 8, 10, 10]),
        (0.5, [0.25, 0.5, 1, 2, 4, 5, 5]),
        (0.1, [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1]),
    ],
)
async def test_backoff_doubles_with_full_jitter(lab: Lab, jitter: float, delays: list[float]) -> None:
    """From 0.5 s to 10 s at most, anything below by chance; the reason is kept."""
    lab.jitter = jitter
    lab.script["a"] = [DOWN] * len(delays)
    await lab.queue("a")
    for number, delay_s in enumerate(delays, 1):
        await lab.settled()
        found = await lab.seen("a")
        assert found.next_try - lab.clock.unix_time() == pytest.approx(delay_s, abs=TICK_S)
        assert (found.attempts, found.reason) == (number, "DubFailed: status 503")
        lab.clock.advance(delay_s + TICK_S)
    await lab.settled()
    assert len(lab.attempts) == len(delays) + 1


async def test_nothing_is_tried_before_its_time(lab: Lab) -> None:
    """A failed entry rests until its delay is over, to the tick."""
    lab.script["a"] = [DOWN]
    await lab.submit("a")
    await lab.pass_by(0.49)
    assert len(lab.attempts) == 1
    await lab.pass_by(0.02)
    assert len(lab.attempts) == 2


@pytest.mark.parametrize(
    ("result", "delay_s"),
    [
        (RetryLater(DubThrottled(30)), 30),
        (
            RetryLater(DubThrottled(0)),
            0.5,
        ),  # its time is over by our clock: no reason to ask at once, for ever
        (RetryLater(DubThrottled(0.1)), 0.5),
        (RetryLater(REFUSED, 2.0), 2),
    ],
)
async def test_dubs_own_time_is_honoured(lab: Lab, result: DeliveryResult, delay_s: float) -> None:
    """A Retry-After is waited for, and the backoff at least."""
    lab.script["a"] = [result]
    began = lab.clock.unix_time()
    assert await lab.submit("a") == result
    assert (await lab.seen("a")).next_try - began == pytest.approx(delay_s, abs=TICK_S)


async def test_dub_coming_back_wakes_what_failed(lab: Lab) -> None:
    """What rests in its backoff is tried within seconds, but for what Dub gave a time of its own."""
    names = [*"abc"]
    for name in names:
        lab.script[name] = [DOWN] * 6
        await lab.queue(name)
    await lab.queue("throttled")
    lab.script["throttled"] = [RetryLater(DubThrottled(60))]
    for _ in range(5):
        await lab.pass_by(11)
    lab.attempts.clear()
    lab.script.clear()
    lab.outbox.dub_is_back()
    await lab.settled()
    await lab.pass_by(2)
    assert sorted(lab.attempts) == names
    assert await lab.state("throttled") == "queued"
    assert [await lab.state(name) for name in names] == ["delivered"] * 3


async def test_nothing_is_tried_while_dub_is_held_back(lab: Lab) -> None:
    """Behind an open breaker a new lead is queued at once and no attempt is counted; other kinds go on."""
    lab.held["lead"] = 60
    result = await lab.submit("a")
    assert isinstance(result, RetryLater)
    assert isinstance(result.error, CircuitOpen)
    await lab.queue("b")
    assert await lab.submit("sale", kind="sale") == Delivered(b"{}")
    await lab.pass_by(20)
    assert lab.attempts == ["sale"]
    assert (await lab.seen("a")).attempts == 0
    lab.held.clear()
    await lab.pass_by(1)
    assert sorted(lab.attempts) == ["a", "b", "sale"]


async def test_what_is_held_back_is_anybodys(lab: Lab) -> None:
    """What cannot leave, at once or when its turn comes, is left for any replica to take, and no attempt."""
    lab.script["a"] = [RetryLater(CircuitOpen("circuit breaker open"))]
    lab.script["b"] = [RetryLater(BulkheadFull("no place"))]
    for name in "ab":
        await lab.submit(name)
    lab.held["lead"] = 60
    await lab.submit("c")
    lab.clock.advance(1)
    await lab.database.write()
    taken = await lab.store_of("a secret").take_due("lead", ["acme"], 10)
    assert {each.id: each.entry and each.entry.attempts for each in taken} == {"a": 0, "b": 0, "c": 0}


async def test_a_lead_that_its_caller_takes_back_is_gone(lab: Lab) -> None:
    """Refused, or held back, with a caller who wants to hear of it: it is told, and nothing is queued."""
    lab.script["a"] = [RetryLater(REFUSED, 2.0)]
    result = await lab.outbox.submit(lab.entry("a"), wait_s=SOON_S, drops=always)
    assert result == RetryLater(REFUSED, 2.0)
    lab.held["lead"] = 60
    held = await lab.outbox.submit(lab.entry("b"), wait_s=SOON_S, drops=always)
    assert isinstance(held, RetryLater)
    await lab.settled()
    assert await lab.depths("queued", "delivered", "dead") == {}


async def test_a_lead_behind_another_can_be_taken_back_too(lab: Lab) -> None:
    """Having waited for its turn changes nothing: told of an error, it is not queued behind its back."""
    lab.blocked = asyncio.Event()
    lab.script["a2"] = [DeadLetter("refused", REFUSED)]
    first = asyncio.create_task(lab.submit("a1", "anna"))
    await until(lambda: lab.attempts)
    second = asyncio.create_task(
        lab.outbox.submit(lab.entry("a2", "anna"), wait_s=SOON_S, drops=always),
    )
    await asyncio.sleep(0.02)
    lab.blocked.set()
    assert await first == Delivered(b"{}")
    assert await second == DeadLetter("refused", REFUSED)
    await lab.settled()
    assert await lab.state("a2") is None


@pytest.mark.parametrize("result", [RetryLater(REFUSED, 2.0), DeadLetter("refused", REFUSED), DOWN])
async def test_what_was_answered_as_queued_is_never_dropped(lab: Lab, result: DeliveryResult) -> None:
    """An error that comes after its caller was told "queued" leaves the entry where an operator sees it."""
    lab.blocked = asyncio.Event()
    lab.script["a"] = [result]
    assert await lab.outbox.submit(lab.entry("a"), wait_s=0.02, drops=always) is None
    lab.blocked.set()
    await lab.settled()
    assert await lab.state("a") == ("dead" if isinstance(result, DeadLetter) else "queued")


async def test_an_abandoned_entry_is_given_up(lab: Lab) -> None:
    """Its attempt ends, and it is gone."""
    lab.blocked = asyncio.Event()
    assert await lab.submit("a", wait_s=0.02) is None
    await lab.outbox.abandon("a")
    assert lab.under_way.total() == 0
    lab.blocked.set()
    await lab.pass_by(60)
    assert (lab.attempts, await lab.state("a")) == (["a"], None)


async def test_what_dub_refuses_is_a_dead_letter(lab: Lab, logs: LogLines) -> None:
    """With its reason, in the log too; it is tried no more until an operator says so."""
    lab.script["a"] = [DeadLetter("Dub refused it: 404 not_found", REFUSED)]
    await lab.submit("a", payload=b"kept")
    await lab.pass_by(DAY_S)
    assert lab.attempts == ["a"]
    found = await lab.store.found("a")
    assert found is not None
    assert found[1] is not None
    assert (found[0].state, found[0].reason) == ("dead", "Dub refused it: 404 not_found")
    assert lab.store.reveal(found[1]) == b"kept"
    assert [line["reason"] for line in logs.events("outbox.dead")] == ["Dub refused it: 404 not_found"]
    assert await lab.store.retry_now("nobody") == 0
    assert await lab.store.retry_now("a") == 1
    await lab.pass_by(1)
    assert (lab.attempts, await lab.state("a")) == (["a", "a"], "delivered")


async def test_what_is_too_old_is_a_dead_letter(lab: Lab, logs: LogLines) -> None:
    """After six days, inside Dub's own seven, with what kept it.

    What was delivered is forgotten after seven: so long a lead that is reported again is recognised.
    """
    lab.held = {"lead": 60, "open": 60}
    await lab.submit("delivered", kind="sale")
    await lab.submit("a")
    lab.outbox.enqueue_open(owed("open"))
    await lab.store.add(lab.entry("b", depends_on_open="open"), leased=False)
    await lab.pass_by(6 * DAY_S - 1)
    assert await lab.state("a") == "queued"
    await lab.pass_by(61)
    assert [await lab.state(name) for name in ("a", "b", "open", "delivered")] == ["dead"] * 3 + ["delivered"]
    assert (await lab.seen("a")).reason.startswith("expired")
    assert [line["entries"] for line in logs.events("outbox.expired")] == [3]
    lab.held.clear()
    await lab.pass_by(60)
    assert lab.attempts == ["delivered"]
    assert await lab.store.retry_now(None) == 3
    await lab.pass_by(60)
    assert sorted(lab.attempts) == ["a", "b", "delivered", "open"]
    await lab.pass_by(DAY_S)
    assert await lab.state("delivered") is None


async def test_attempts_are_bounded(lab: Lab) -> None:
    """A thousand queued entries go a few at a time, and all of them go."""
    lab.held["lead"] = 60
    await lab.queue(*(f"{number}" for number in range(300)))
    lab.blocked = asyncio.Event()
    lab.held.clear()
    lab.look()
    await until(lambda: len(lab.attempts) == POLICY.in_flight_max)
    lab.blocked.set()
    await until(lambda: len(lab.attempts) == 300)
    assert lab.most_at_once == POLICY.in_flight_max
    assert len(set(lab.attempts)) == 300


async def test_leads_of_the_moment_do_not_starve_what_is_queued(lab: Lab) -> None:
    """While more leads come in than are drained at a time, what is queued is sent all the same."""
    lab.blocked = asyncio.Event()
    leads = [asyncio.create_task(lab.submit(f"now {n}")) for n in range(POLICY.in_flight_max * 3)]
    await until(lambda: len(lab.attempts) == len(leads))
    await lab.queue("queued")
    lab.look()
    await until(lambda: "queued" in lab.attempts)
    lab.blocked.set()
    await asyncio.gather(*leads)


async def test_a_mistake_of_ours_loses_nothing(lab: Lab, logs: LogLines) -> None:
    """An attempt that raises is logged without its message, and made again."""
    lab.script["a"] = [RuntimeError("anna@example.com"), StoreFailed("disk")]
    assert isinstance(await lab.submit("a"), RetryLater)
    await lab.pass_by(60)
    await lab.pass_by(60)
    assert (lab.attempts, await lab.state("a")) == (["a"] * 3, "delivered")
    assert [line["error"] for line in logs.events("outbox.failed")] == ["RuntimeError"]
    assert "anna" not in logs.text


async def test_a_store_that_fails_for_a_while_loses_nothing(
    lab: Lab, logs: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop outlives a store that cannot be read, and goes on once it can."""
    real = lab.store.take_due
    failures = 0

    async def failing(*_: Any, **__: Any) -> Any:
        nonlocal failures
        failures += 1
        raise StoreFailed("disk") if failures % 2 else RuntimeError("ours")

    monkeypatch.setattr(lab.store, "take_due", failing)
    lab.look()
    await until(lambda: failures >= 6)
    await lab.queue("a")
    monkeypatch.setattr(lab.store, "take_due", real)
    await until(lambda: lab.attempts == ["a"])
    assert logs.events("background.failed")


async def test_a_release_that_was_lost_is_made_up_for(lab: Lab) -> None:
    """While the database fails, only what this replica took is let go; the rest is found when it is tried."""
    later = lab.clock.unix_time() + 30
    elsewhere = lab.entry("there", depends_on_open="open-1", next_try=later)
    await lab.store.add(elsewhere, leased=False)
    await lab.submit("here", depends_on_open="open-2", next_try=later, wait_s=0)
    lab.database.failing = "the disk is full"
    for name in ("open-1", "open-2"):
        lab.outbox.release_dependents(name)
    await lab.settled()
    assert lab.attempts == ["here"]
    await lab.pass_by(30)
    assert lab.attempts == ["here", "there"]


async def test_an_entry_of_an_unlisted_secret_stays_queued(lab: Lab) -> None:
    """It says why, and blocks no other entry, its own customer's included."""
    other = lab.store_of("a lost secret")
    lab.held["lead"] = 60
    await other.add(lab.entry("a", "anna"), leased=False)
    await lab.queue("b", ordering_key="anna")
    lab.held.clear()
    await lab.pass_by(1)
    await lab.pass_by(1)
    assert (lab.attempts, await lab.state("a")) == (["b"], "queued")
    assert "FIRSTOPEN_SECRET" in (await lab.store.listed("queued", 10))[0].reason


async def test_a_stop_leaves_what_is_under_way_queued(lab: Lab) -> None:
    """Interrupted in the middle, an entry is anybody's to send at once, and then that one's alone."""
    lab.blocked = asyncio.Event()
    assert await lab.submit("a", wait_s=0.02) is None
    await lab.outbox.close()
    assert await lab.state("a") == "queued"
    lab.blocked.set()
    await lab.database.write()
    another = lab.store_of("a secret")
    (taken,) = await another.take_due("lead", ["acme"], 10)
    assert taken.id == "a"
    lab.store.give_back("a", lab.clock.unix_time())  # not its own any more: nothing changes
    await lab.database.write()
    assert await lab.store_of("a secret").take_due("lead", ["acme"], 10) == []
    another.give_back("a", lab.clock.unix_time())
    await lab.restart()
    await lab.settled()
    assert (lab.attempts, await lab.state("a")) == (["a", "a"], "delivered")


async def test_the_next_entries_are_taken_while_others_are_sent(lab: Lab) -> None:
    """No page waits for the database. What was taken ahead is given back at a stop."""
    lab.held["lead"] = 60
    names = [f"{number:03}" for number in range(300)]
    await lab.queue(*names)
    lab.blocked = asyncio.Event()
    lab.held.clear()
    lab.look()
    ahead = lab.outbox._drains["lead"].waiting
    two_pages = 2 * _PAGES * POLICY.in_flight_max
    await until(lambda: len(ahead) == two_pages - POLICY.in_flight_max)
    another = lab.store_of("a secret")
    rest = await another.take_due("lead", ["acme"], 1000, written=True)
    assert len(rest) == len(names) - two_pages
    assert len(lab.attempts) == POLICY.in_flight_max
    await lab.outbox.close()
    given_back = await another.take_due("lead", ["acme"], 1000, written=True)
    assert sorted(each.id for each in (*rest, *given_back)) == names


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_everything_arrives_in_order(lab: Lab, seed: int) -> None:
    """Failures, holds, crashes and comebacks in any order: every entry arrives, and a customer's
    entries in the order in which they were written down.
    """
    random = Random(seed)
    lab.jitter = 0.7
    names = [f"{ordering_key}{number:02}" for number in range(8) for ordering_key in "abcd"]
    for name in names:
        lab.script[name] = random.choices(
            [DOWN, RetryLater(DubThrottled(3)), RuntimeError()], k=random.randrange(4)
        )
    delivered: list[str] = []
    waits = [
        asyncio.create_task(lab.outbox.submit(lab.entry(name, name[0]), wait_s=0.05, drops=never))
        for name in names
    ]
    for _ in range(60):
        match random.randrange(5):
            case 0:
                await lab.restart()
            case 1:
                lab.outbox.dub_is_back()
            case 2:
                lab.held["lead"] = 0 if lab.held.get("lead") else 60
            case _:
                await lab.pass_by(random.choice([0.1, 1, 11]))
    await asyncio.gather(*waits)
    lab.held.clear()
    await until_delivered(lab, len(names))
    last = {name: index for index, name in enumerate(lab.attempts)}
    delivered = sorted(last, key=last.__getitem__)
    assert sorted(delivered) == sorted(names)
    for ordering_key in "abcd":
        own = [name for name in delivered if name[0] == ordering_key]
        assert own == sorted(own)


async def until_delivered(lab: Lab, count: int) -> None:
    for _ in range(200):
        if (await lab.depths("delivered")).get(("lead", "delivered"), 0) == count:
            return
        await lab.pass_by(11)
    raise AssertionError(await lab.depths("queued", "dead", "delivered"))


async def test_what_cannot_be_noted_is_not_sent_over_and_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Dub has taken while that could not be written down is not sent again, and noted later."""
    real = lab.database._engine.commit

    async def full(*_: Any) -> Any:
        raise EngineUnavailable("the disk is full")

    lab.blocked = asyncio.Event()
    submitted = [asyncio.create_task(lab.submit(name, wait_s=0.1)) for name in "ab"]
    await until(lambda: len(lab.attempts) == 2)
    monkeypatch.setattr(lab.database._engine, "commit", full)
    lab.blocked.set()
    await asyncio.gather(*submitted)
    for _ in range(20):
        lab.clock.advance(2)
        lab.look()
        await asyncio.sleep(0.02)
    assert sorted(lab.attempts) == ["a", "b"]
    monkeypatch.setattr(lab.database._engine, "commit", real)
    await until(lambda: lab.database.failing is None)
    assert [await lab.state(name) for name in "ab"] == ["delivered"] * 2
