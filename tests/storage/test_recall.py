"""What is recalled of an install that has few opens, and of one that has many."""

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


@pytest.mark.parametrize("count", [3, 30, 31, 200])
async def test_the_first_launch_and_the_newest_opens_are_recalled(database: Database, count: int) -> None:
    """However many opens follow, the first launch is among them, and the answer to an open that is newest."""
    store = SqlOpenStore(database, Cipher(["one"]), clock=lambda: 0, unix_time=lambda: 0)
    for number in range(1, count + 1):
        has_click = number not in WITHOUT_CLICK
        opened = Open(
            app="acme",
            open_id=f"{number:032x}",
            device=DEVICE,
            click_id="c" * 16 if has_click else None,
            link=LINK if has_click else None,
            match=BY_DEEP_LINK if has_click else NO_MATCH,
            offered=EVIDENCE_PRIORITY["ip"] if number == 1 else EVIDENCE_PRIORITY["deep_link"],
            opened_at=float(number),
            repeat_until=0,
        )
        store.keep(key_of(number), opened, None, None)
    await database.read_written("SELECT 1")
    recalled = await store.recall([DEVICE], key_of(count))
    numbers = [int(each.open_id, 16) for each in recalled.opens]
    assert recalled.answer is not None
    assert int(recalled.answer.open_id, 16) == count
    assert numbers == sorted(numbers, reverse=True)
    assert {1, 2, *range(max(count - 9, 3), count + 1)} <= set(numbers)
    assert len(numbers) == (count if count <= 30 else 12)
