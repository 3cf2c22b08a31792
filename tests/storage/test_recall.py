"""What is recalled of an install that has few opens, and of one that has many."""

import asyncio
from collections import Counter

import pytest

from service.domain.evidence import EVIDENCE_PRIORITY
from service.domain.models import BY_DEEP_LINK, NO_MATCH, Link, Open
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.opens import SqlOpenStore

LINK = Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/123")
DEVICE = f"{0xFEED:016x}"
WITHOUT_CLICK = 1, 2  # the first launch, then an open without a link that Dub knows


def key_of(number: int) -> bytes:
    return number.to_bytes(8, "big") + bytes(8)


def store_over(database: Database) -> SqlOpenStore:
    return SqlOpenStore(database, Cipher(["one"]), clock=lambda: 0, unix_time=lambda: 0)


def open_of(device: str, number: int, *, has_click: bool = True, offered: str = "deep_link") -> Open:
    return Open(
        app="acme",
        open_id=f"{device}{number:016x}",
        device=device,
        click_id="c" * 16 if has_click else None,
        link=LINK if has_click else None,
        match=BY_DEEP_LINK if has_click else NO_MATCH,
        offered=EVIDENCE_PRIORITY[offered],
        opened_at=float(number),
        repeat_until=0,
    )


def numbers_of(opens: list[Open]) -> list[int]:
    return [int(each.open_id[16:], 16) for each in opens]


@pytest.mark.parametrize("count", [3, 30, 31, 200])
async def test_the_first_launch_and_the_newest_opens_are_recalled(database: Database, count: int) -> None:
    """However many opens follow, the first launch is among them, and the answer to an open that is newest."""
    store = store_over(database)
    for number in range(1, count + 1):
        offered = "ip" if number == 1 else "deep_link"
        opened = open_of(DEVICE, number, has_click=number not in WITHOUT_CLICK, offered=offered)
        store.keep(key_of(number), opened, None, None)
    await database.read_written("SELECT 1")
    recalled = await store.recall([DEVICE], key_of(count))
    numbers = numbers_of(recalled.opens)
    assert recalled.answer is not None
    assert numbers_of([recalled.answer]) == [count]
    assert numbers == sorted(numbers, reverse=True)
    assert {1, 2, *range(max(count - 9, 3), count + 1)} <= set(numbers)
    assert len(numbers) == (count if count <= 30 else 12)


async def test_devices_that_are_recalled_at_once_get_their_own_opens(database: Database) -> None:
    """One statement finds them all: also of a device with many opens, and of one that is asked for twice."""
    store = store_over(database)
    counts = {f"{0xFEED + number:016x}": (0, 1, 3, 40)[number % 4] for number in range(100)}
    for device, count in counts.items():
        for number in range(1, count + 1):
            store.keep(key_of(number), open_of(device, number), None, None)
    await database.read_written("SELECT 1")
    asked = [*counts, DEVICE, [*counts][1]]
    found, other = await asyncio.gather(
        asyncio.gather(*(store.recall([device], key_of(1)) for device in asked)), database.read("SELECT 7")
    )
    for device, recalled in zip(asked, found, strict=True):
        newest = min(counts[device], 10)
        assert {each.device for each in recalled.opens} <= {device}
        assert numbers_of(recalled.opens)[:newest] == [*range(counts[device], counts[device] - newest, -1)]
        assert (recalled.answer is None) == (not counts[device] or counts[device] == 40)
    under_two_names = await store.recall([asked[1], asked[2]], key_of(3))
    assert Counter(each.device for each in under_two_names.opens) == {asked[1]: 1, asked[2]: 3}
    assert other == [(7,)]
