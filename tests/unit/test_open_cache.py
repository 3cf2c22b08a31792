"""What one process remembers: bounded, aged, and never an older answer in place of a newer one."""

import msgspec
import pytest
from cachetools import LRUCache
from hypothesis import given
from hypothesis import strategies as st

from service.domain.models import Link, Open
from service.storage.cache import MemoryLimits, MemoryOpenCache
from tests.support import FakeClock

BYTES = 1_200_000
LIMITS = MemoryLimits(bytes_max=BYTES, open_ttl_s=3600, link_ttl_s=600, unknown_link_ttl_s=60)
LINK = Link("link_1", "acme.link", "promo", "https://acme.com/product/1")


@pytest.fixture
def store(clock: FakeClock) -> MemoryOpenCache:
    return MemoryOpenCache(LIMITS, clock)


def an_open(open_id: str = "id-1", **fields: object) -> Open:
    known = {"app": "acme", "open_id": open_id, "device": "00" * 8, "opened_at": 0.0, "repeat_until": 5000.0}
    return Open(**{**known, **fields})  # type: ignore[arg-type]


def test_an_open_is_found_both_ways(store: MemoryOpenCache) -> None:
    """By the key of its device and target, and by its id."""
    store.keep(b"key", an_open())
    assert store.answer(b"key") == store.opened("id-1") == an_open()
    assert store.answer(b"other") is None
    assert store.opened("other") is None


@pytest.mark.parametrize("first", ["https://a.b", "https://a.b/" + "x" * 1100])
@pytest.mark.parametrize("second", ["https://a.c", "https://a.c/" + "y" * 1100])
def test_the_newest_open_is_the_one_that_counts(store: MemoryOpenCache, first: str, second: str) -> None:
    """Whatever the lengths of their URLs, a later open replaces an earlier one, both ways."""
    store.keep(b"key", an_open(url=first, provisional=True))
    store.keep(b"key", an_open(url=second))
    for found in (store.answer(b"key"), store.opened("id-1")):
        assert found is not None
        assert (found.destination, found.pending) == (second, False)


def test_opens_are_bounded_by_bytes(store: MemoryOpenCache) -> None:
    """What was used longest ago is forgotten; what is used stays."""
    for number in range(BYTES // 900):
        store.keep(b"%d" % number, an_open(f"id-{number}"))
        assert store.answer(b"0") is not None
    assert store.answer(b"1") is None
    assert 500 < len(store._usual) < BYTES / 900


@pytest.mark.parametrize("chars", [0, 900, 30_000])
def test_the_largest_inputs_stay_within_the_budget(store: MemoryOpenCache, chars: int) -> None:
    """Links, queries and keys of any length: what is kept is counted with its characters."""
    for number in range(5000):
        url = f"https://acme.com/{number}"
        described = Link(f"{number}", "acme.link", "b", url + "u" * chars)
        link = store.keep_link("acme.link", f"{number}" + "k" * chars, described)
        store.keep(b"%d" % number, an_open(f"id-{number}", link=link, carried="x" * chars))
    assert store.size_bytes <= BYTES
    held = sum(len(each.carried) + len(each.link.url or "") for each in store._long.values() if each.link)
    assert held <= BYTES * 0.1


def test_long_opens_push_out_no_usual_one(store: MemoryOpenCache) -> None:
    """Opens with long URLs have a tenth of the bytes, and share no place with others."""
    store.keep(b"usual", an_open("usual"))
    for number in range(50):
        store.keep(b"%d" % number, an_open(f"id-{number}", carried="x" * 30_000))
    assert sum(store.answer(b"%d" % number) is not None for number in range(50)) == 3
    assert store.answer(b"usual") is not None


def test_an_open_is_forgotten_by_its_id_an_hour_after_its_last_answer(
    store: MemoryOpenCache, clock: FakeClock
) -> None:
    """Ids do not live for ever."""
    store.keep(b"key", an_open(repeat_until=clock() + 10))
    clock.advance(3609)
    assert store.opened("id-1") is not None
    clock.advance(2)
    assert store.opened("id-1") is None


def test_links_are_remembered_for_their_time_and_apart(store: MemoryOpenCache, clock: FakeClock) -> None:
    """By domain and key, case kept; a fresh description starts the time anew; bytes bound them."""
    store.keep_link("acme.link", "promo", LINK)
    assert store.link("acme.link", "Promo") is None
    assert store.link("globex.link", "promo") is None
    clock.advance(599)
    assert store.link("acme.link", "promo") == LINK
    store.keep_link("acme.link", "promo", LINK)
    clock.advance(599)
    assert store.link("acme.link", "promo") == LINK
    clock.advance(2)
    assert store.link("acme.link", "promo") is None
    for number in range(400):
        store.keep_link("acme.link", str(number), LINK)
    assert store.link("acme.link", "0") is None
    assert store.link("acme.link", "399") is not None


def test_one_object_for_all_opens_of_a_link(store: MemoryOpenCache) -> None:
    """Dub describes a link anew with each open; it is kept once, unless it changed."""
    first = store.keep_link("acme.link", "promo", LINK)
    same = msgspec.structs.replace(LINK)
    assert store.keep_link("acme.link", "promo", same) is first
    moved = msgspec.structs.replace(LINK, url="https://acme.com/product/2")
    assert store.keep_link("acme.link", "promo", moved) is moved


def test_an_unknown_link_is_unknown_for_its_time(store: MemoryOpenCache, clock: FakeClock) -> None:
    """Dub's 404 stands for a minute, on its own domain, and takes what was remembered of the link along."""
    store.keep_link("acme.link", "promo", LINK)
    clock.advance(1)
    store.keep_unknown("acme.link", "promo", asked=clock())
    assert store.unknown_for_s("acme.link", "promo") == 60
    assert store.unknown_for_s("globex.link", "promo") == 0
    assert store.link("acme.link", "promo") is None
    clock.advance(60)
    assert store.unknown_for_s("acme.link", "promo") == 0


def test_a_link_that_is_described_is_not_unknown(store: MemoryOpenCache, clock: FakeClock) -> None:
    """A 200 ends a 404; a 404 that was asked for before the last 200 says nothing."""
    store.keep_unknown("acme.link", "promo", asked=clock())
    store.keep_link("acme.link", "promo", LINK)
    assert store.unknown_for_s("acme.link", "promo") == 0
    store.keep_unknown("acme.link", "promo", asked=clock() - 3)
    assert store.unknown_for_s("acme.link", "promo") == 0
    assert store.link("acme.link", "promo") == LINK


def test_unknown_links_are_bounded(
    store: MemoryOpenCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wrong links are asked for, only so many are remembered, and long ones as hashes."""
    monkeypatch.setattr(store, "_unknown", LRUCache(3))
    for number in range(4):
        store.keep_unknown("acme.link", f"{number}" + "x" * 30_000, asked=clock())
    assert store.unknown_for_s("acme.link", "0" + "x" * 30_000) == 0
    assert store.unknown_for_s("acme.link", "3" + "x" * 30_000) == 60


def test_an_open_with_several_keys_is_found_by_its_id_while_one_is_left(store: MemoryOpenCache) -> None:
    """A first launch is kept under several keys; another's answer under one of them hides nothing."""
    for key in (b"link-a", b"first", b"domain"):
        store.keep(key, an_open("a"))
    store.keep(b"link-a", an_open("a", provisional=True))
    store.keep(b"first", an_open("b"))
    assert store.opened("a") is not None
    store.keep(b"domain", an_open("b"))
    found = store.opened("a")
    assert found is not None
    assert found.pending
    store.keep(b"link-a", an_open("b"))
    assert store.opened("a") is None
    assert store.opened("b") == an_open("b")


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9), st.booleans()), max_size=80))
def test_keys_and_ids_say_the_same(recorder: list[tuple[int, int, bool]]) -> None:
    """Whatever is kept, forgotten and pushed out: an id is found as long as a key has its open."""
    limits = msgspec.structs.replace(LIMITS, bytes_max=9200)
    opens = MemoryOpenCache(limits, FakeClock())._usual
    for key, name, is_kept in recorder:
        if is_kept:
            opens.put(b"%d" % key, an_open(f"{name}"))
        else:
            opens.remove(b"%d" % key)
        assert {each.open_id for each in opens.values()} == opens.by_id.keys()
        assert opens._keys.keys() <= opens.by_id.keys()
