"""One file, one writer: what is written reaches the disk, in order and in time."""

import asyncio
from pathlib import Path

import structlog

from service.store.database import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY)"


async def test_what_comes_during_a_commit_is_in_the_next(tmp_path: Path) -> None:
    """Writes that come while a commit runs reach the disk a moment later: the writer never falls behind."""
    commits = 0
    enough = asyncio.Event()

    def committed() -> None:
        nonlocal commits
        commits += 1
        if commits < 20:
            database.write_behind(lambda _: None)
        else:
            enough.set()

    database = Database(tmp_path, SCHEMA, structlog.get_logger(), committed=committed)
    await database.open()
    try:
        database.write_behind(lambda _: None)
        async with asyncio.timeout(10):  # it takes one
            await enough.wait()
    finally:
        await database.close()
