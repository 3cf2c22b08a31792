"""Opens on disk: found by id and by device at once, after a while, and after a stop at any moment."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from msgspec import structs

from service.resolve.errors import StoreFailed
from service.resolve.model import Link, Open
from service.store.database import Database
from service.store.journal import JOURNAL_SCHEMA, SqliteJournal
from service.store.sealing import Seal
from tests.support import FakeClock

ANNA, BEN = "a" * 16, "b" * 16
LINK = Link("link_1", "acme.link", "promo", "https://acme.com/product/1")


def an_open(number: int, click_id: str | None = "c" * 16, *, pending: bool = False) -> Open:
    return Open(
        app="acme", open_id=f"{number:032x}", click_id=click_id, link=LINK, pending=pending, repeat_until=0
    )


class Lab:
    """A journal on a file, and what is in the file."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.clock = clock
        self.database = Database(folder, JOURNAL_SCHEMA, structlog.get_logger())
        self.journal = SqliteJournal(
            self.database, Seal(["a secret of 32 characters or more"]), clock, clock.wall
        )

    async def rows(self) -> tuple[int, int]:
        """Count the opens that are where they are found, and the rows that are arriving."""
        return await self.database.read(
            lambda connection: (
                connection.execute("SELECT count(*) FROM opens").fetchone()[0],
                connection.execute("SELECT count(*) FROM arriving").fetchone()[0],
            )
        )

    async def settled(self) -> None:
        """Have the first move of a start over with."""
        await self.journal.ids([ANNA])

    async def found(self, number: int) -> tuple[str | None, bool] | None:
        opened = await self.journal.opened(f"{number:032x}")
        return None if opened is None else (opened.click_id, opened.pending)


@contextlib.asynccontextmanager
async def lab_on(folder: Path, clock: FakeClock) -> AsyncIterator[Lab]:
    lab = Lab(folder, clock)
    await lab.database.open()
    try:
        yield lab
    finally:
        await lab.database.close()


@pytest.fixture
async def lab(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Lab]:
    async with lab_on(tmp_path, clock) as lab:
        yield lab


async def test_rows_arrive_together(lab: Lab) -> None:
    """What comes within a second is written one behind the other, and goes to its place after it."""
    await lab.settled()
    for number in range(20):
        lab.journal.keep(ANNA, an_open(number), None)
    assert await lab.rows() == (0, 20)
    lab.clock.advance(1)
    lab.journal.keep(ANNA, an_open(20), None)
    assert await lab.rows() == (21, 0)


async def test_a_few_thousand_do_not_wait_for_the_second(lab: Lab) -> None:
    """What is arriving is bounded by count, too."""
    await lab.settled()
    for number in range(5000):
        lab.journal.keep(ANNA, an_open(number), None)
    assert await lab.rows() == (4096, 904)


async def test_a_clock_that_is_set_back_stops_no_move(lab: Lab) -> None:
    """Rows do not wait until a time is there again that was there before."""
    await lab.settled()
    lab.clock.advance(-3600)
    lab.journal.keep(ANNA, an_open(1), None)
    assert await lab.rows() == (1, 0)


@pytest.mark.parametrize("behind", [True, False])
async def test_what_is_arriving_is_found(lab: Lab, behind: bool) -> None:  # noqa: FBT001
    """By its id and by its device, as soon as it is kept; who looks for another's waits for no move."""
    await lab.settled()
    lab.journal.keep(ANNA, an_open(1), None)
    lab.journal.keep(BEN, an_open(2), None)
    assert await lab.rows() == (0, 2)
    assert await lab.journal.of_device(["c" * 16], behind=behind) == []
    assert await lab.rows() == (0, 2)
    assert [each.open_id for each in await lab.journal.of_device([ANNA], behind=behind)] == [f"{1:032x}"]
    assert await lab.rows() == (2, 0)
    lab.journal.keep(ANNA, an_open(3), None)
    assert await lab.found(3) == ("c" * 16, False)


async def test_the_last_word_on_an_open_counts(lab: Lab) -> None:
    """Kept again, before or after it has moved, an open is one, with what was said last."""
    await lab.settled()
    for last in range(3):
        for click_id in (None, "1" * 16, None, f"{last}" * 16):
            lab.journal.keep(ANNA, an_open(1, click_id, pending=click_id is None), None)
        assert await lab.found(1) == (f"{last}" * 16, False)
    assert await lab.rows() == (1, 0)


async def test_what_was_arriving_at_a_stop_is_found_after_it(tmp_path: Path, clock: FakeClock) -> None:
    """Whoever asks first has it moved."""
    for asked in ("id", "device", "ids", "sightings", "keep"):
        folder = tmp_path / asked
        folder.mkdir()
        async with lab_on(folder, clock) as before:
            await before.settled()
            before.journal.keep(ANNA, an_open(1), 7)
            assert await before.rows() == (0, 1)
        async with lab_on(folder, clock) as after:
            assert await after.rows() == (0, 1)
            match asked:
                case "id":
                    assert await after.found(1) == ("c" * 16, False)
                case "device":
                    assert len(await after.journal.of_device([ANNA], behind=False)) == 1
                case "ids":
                    assert await after.journal.ids([ANNA]) == [f"{1:032x}"]
                case "sightings":
                    assert [each[:2] for each in await after.journal.sightings("acme", 0)] == [(7, ANNA)]
                case _:
                    after.journal.keep(BEN, an_open(2), None)
                    assert await after.rows() == (2, 0)


async def test_what_is_arriving_is_forgotten_too(lab: Lab) -> None:
    """By device, and by age."""
    await lab.settled()
    lab.journal.keep(ANNA, an_open(1), None)
    lab.journal.keep(BEN, an_open(2), None)
    assert await lab.journal.forget([ANNA]) == 1
    assert await lab.found(1) is None
    lab.journal.keep(ANNA, an_open(3), None)
    assert await lab.journal.forget_before(lab.clock.wall() + 1) == 2
    assert await lab.rows() == (0, 0)


async def test_whatever_happens_a_journal_says_what_it_was_told(tmp_path: Path, clock: FakeClock) -> None:
    """Kept, asked, forgotten, restarted, in any order and pace: the same answers as a dictionary's."""
    for seed in range(4):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        await _compare(folder, clock, random.Random(seed))


async def _compare(folder: Path, clock: FakeClock, dice: random.Random) -> None:
    told: dict[int, tuple[str, str | None]] = {}
    for _ in range(3):
        async with lab_on(folder, clock) as lab:
            for step in range(150):
                number, device = dice.randrange(12), dice.choice((ANNA, BEN))
                match dice.choice(("keep", "keep", "keep", "opened", "device", "forget", "wait", "turn")):
                    case "keep":
                        device = told[number][0] if number in told else device
                        told[number] = (device, dice.choice((None, f"{step:016x}")))
                        lab.journal.keep(device, an_open(number, told[number][1]), None)
                    case "opened":
                        expected = (told[number][1], False) if number in told else None
                        assert await lab.found(number) == expected
                    case "device":
                        opens = await lab.journal.of_device([device], behind=dice.random() < 0.5)
                        clicked = {each.open_id: each.click_id for each in opens if each.click_id}
                        known = {f"{n:032x}": click for n, (whose, click) in told.items() if whose == device}
                        assert clicked.items() <= known.items()
                        assert len(clicked) >= min(5, sum(click is not None for click in known.values()))
                    case "forget" if dice.random() < 0.2:
                        gone = [each for each, (whose, _) in told.items() if whose == device]
                        assert await lab.journal.forget([device]) == len(gone)
                        told = {each: what for each, what in told.items() if each not in gone}
                    case "wait":
                        clock.advance(dice.choice((0.2, 1.5)))
                    case "turn":
                        await asyncio.sleep(0)


async def test_a_disk_that_fails_loses_no_move(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be moved is moved once the disk takes it."""
    await lab.settled()
    lab.journal.keep(ANNA, an_open(1), None)
    assert await lab.rows() == (0, 1)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(lab.database, "_look_at_the_file", full)
        lab.clock.advance(1)
        lab.journal.keep(BEN, structs.replace(an_open(2), click_id=None), None)
        async with asyncio.timeout(5):
            while lab.database.failing is None:  # noqa: ASYNC110  the writer has no event for it
                await asyncio.sleep(0.01)
        with pytest.raises(StoreFailed):
            await lab.journal.forget([ANNA])
    async with asyncio.timeout(5):
        while lab.database.failing is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await lab.rows() == (2, 0)
    assert await lab.journal.ids([ANNA]) == [f"{1:032x}"]
