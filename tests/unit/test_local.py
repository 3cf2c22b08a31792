"""What is kept here while Valkey is away, and the moments in which it comes back."""

from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from service.resolve.owed import Entry, Kind
from service.store.database import Database
from service.store.entries import ENTRIES_SCHEMA, SqliteEntries
from service.store.local import LocalEntries
from service.store.sealing import Seal
from service.store.shared_entries import SharedEntries
from service.telemetry import configure_logs

NOW = 1_785_585_600.0
KINDS: tuple[Kind, ...] = ("open", "lead", "sale")


class Shared:
    """Entries in Valkey, as far as this needs them."""

    def __init__(self) -> None:
        self.moved: list[str] = []

    async def due(self, *_: object) -> Sequence[Entry]:
        return []

    async def move(self, entry: Entry) -> None:
        self.moved.append(entry.id)

    async def expire(self, *_: object) -> int:
        return 0


class Here(SqliteEntries):
    """The real disk, which lets something happen after it was read and before that is heard of."""

    meanwhile: Any = None

    async def due(
        self, kinds: Collection[Kind], now: float, limit: int, held: Collection[tuple[str, Kind]]
    ) -> Sequence[Entry]:
        found = await super().due(kinds, now, limit, held)
        if self.meanwhile is not None and not found:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return found


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    database = Database(tmp_path, ENTRIES_SCHEMA, configure_logs("critical"))
    await database.open()
    yield Here(database, Seal(["a secret for tests of 32 characters or more"]))
    await database.close()


def entry(entry_id: str, kind: Kind = "open") -> Entry:
    return Entry(id=entry_id, app="acme", kind=kind, lane="anna", created=NOW, next_try=NOW, payload=b"{}")


async def test_what_comes_while_the_disk_is_emptied_moves_too(here: Here) -> None:
    """Kept in the moment after the disk was seen to be empty, it does not stay there until a restart."""
    shared, away = Shared(), False
    local = LocalEntries(cast("SharedEntries", shared), here, lambda: away)

    def flicker() -> None:
        nonlocal away
        away = True
        local.owe(entry("open-1"))
        away = False

    here.meanwhile = flicker
    await local.due(KINDS, NOW, 100, ())
    assert shared.moved == []
    await local.due(KINDS, NOW, 100, ())
    assert shared.moved == ["open-1"]
    assert await here.depths("queued") == {}


async def test_what_was_delivered_from_here_is_forgotten_here(here: Here) -> None:
    """Also once nothing is queued here any more."""
    local = LocalEntries(cast("SharedEntries", Shared()), here, lambda: False)
    await here.add(entry("lead-1", "lead"))
    here.finish(entry("lead-1", "lead"), "delivered", "", NOW)
    assert await local.due(KINDS, NOW, 100, ()) == []
    assert await here.depths("delivered") == {("lead", "delivered"): 1}
    a_week_later = NOW + 8 * 86_400  # until then it answers a lead that is reported again
    await local.expire(a_week_later, a_week_later)
    assert await here.depths("delivered") == {}
