"""A process that has its database for itself does not look up devices that are new."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.models import BY_DEEP_LINK, Link, Open
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.port import Engine
from service.storage.hashes import device_name, device_number
from service.storage.known_devices import KnownDevices
from service.storage.opens import SqlOpenStore
from service.storage.statements import Row, Statement

LINK = Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/123")
KEY = bytes(16)
FIRST, LAST = device_name(-(2**63)), device_name(2**63 - 1)
NEW = f"{0xFEED:016x}"


def open_of(device: str, number: int) -> Open:
    return Open(
        app="acme",
        open_id=f"{number:032x}",
        device=device,
        link=LINK,
        match=BY_DEEP_LINK,
        opened_at=float(number),
        repeat_until=0,
    )


def store_over(database: Database) -> SqlOpenStore:
    return SqlOpenStore(database, Cipher(["one"]), clock=time.monotonic, unix_time=time.time)


@pytest.fixture
def reads(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the queries of each round trip to the database."""
    counted: list[int] = []
    engine: Engine = database._engine
    fetch = engine.fetch

    async def counting(queries: Sequence[Statement]) -> list[list[Row]]:
        counted.append(len(queries))
        return await fetch(queries)

    monkeypatch.setattr(engine, "fetch", counting)
    return counted


async def test_after_a_restart_only_devices_with_opens_are_looked_up(
    database: Database, reads: list[int]
) -> None:
    """All devices are read, in several pages, the first and the last number among them."""
    devices = [FIRST, LAST, *(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, 1_500))]
    earlier = store_over(database)
    for number, device in enumerate(devices):
        earlier.keep(KEY, open_of(device, number), None, None)
    await database.read_written("SELECT 1")
    store = store_over(database)
    await store.read_devices()
    for device in devices[::100] + devices[:2]:
        assert [each.device for each in (await store.recall([NEW, device], KEY)).opens] == [device]
    reads.clear()
    assert (await store.recall([NEW], KEY)).opens == []
    assert bool(reads) is database.is_shared  # replicas write opens that this process has not seen


async def test_until_all_devices_are_read_each_is_looked_up(database: Database, reads: list[int]) -> None:
    store = store_over(database)
    await store.recall([NEW], KEY)
    assert reads
    await store.read_devices()


async def test_a_device_is_known_from_its_first_open_on(database: Database) -> None:
    store = store_over(database)
    await store.read_devices()
    assert (await store.recall([NEW], KEY)).opens == []
    store.keep(KEY, open_of(NEW, 1), None, None)
    await database.read_written("SELECT 1")
    assert [each.device for each in (await store.recall([NEW], KEY)).opens] == [NEW]


@given(st.sets(st.integers(-(2**63), 2**63 - 1)))
def test_what_was_added_is_contained(devices: set[int]) -> None:
    known = KnownDevices()
    for device in devices:
        known.add(device)
    assert all(device in known for device in devices)


def test_few_new_devices_are_taken_for_known_ones() -> None:
    """Of 100,000 new devices at most 10 are looked up, beside as many that are known."""
    known = KnownDevices()
    hashes = [device_number(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}") for number in range(200_000)]
    for device in hashes[:100_000]:
        known.add(device)
    assert sum(device in known for device in hashes[100_000:]) <= 10
