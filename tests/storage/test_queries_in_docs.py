"""The examples of docs/data.md: each query runs on the engine that it is for, and finds opens."""

import re
import time
from pathlib import Path

import pytest
import structlog
from msgspec import structs

from service.domain.models import BY_DEEP_LINK, Link, Open
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.migrations import MIGRATIONS
from service.storage.opens import SqlOpenStore
from service.storage.statements import Statement
from tests.storage.conftest import MakeEngine

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
QUERIES = [query.strip().rstrip(";") for query in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)]
OPEN = Open(
    app="acme",
    open_id="00" * 15 + "01",
    device="00" * 8,
    click_id="c" * 16,
    link=Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/1"),
    match=BY_DEEP_LINK,
    source="dub",
    opened_at=1_795_000_000.0,  # in November 2026
    repeat_until=0.0,
)


ENGINES = {"-- SQLite": {"sqlite"}, "-- PostgreSQL": {"postgres"}}


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
async def test_an_example_runs(query: str, make_engine: MakeEngine, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["make_engine"]
    database = Database(make_engine(), structlog.get_logger())
    await database.open()
    store = SqlOpenStore(
        database, Cipher(["a secret"]), clock=time.monotonic, unix_time=lambda: OPEN.opened_at
    )
    store.keep(bytes(16), OPEN, None, None)
    store.keep(bytes(16), structs.replace(OPEN, open_id="00" * 15 + "02", device="01" * 8), None, None)
    await database.close()
    engine = make_engine()
    if name in ENGINES.get(query.partition("\n")[0], {"sqlite", "postgres"}):
        (rows,) = await engine.fetch([Statement(query)])
        assert rows
    await engine.close()


def test_every_column_of_the_view_is_described() -> None:
    views = re.findall(
        r"CREATE VIEW opens_readable AS SELECT\s+(.*?) FROM opens",
        " ".join(statement for migration in MIGRATIONS for statement in migration.statements),
        re.DOTALL,
    )
    columns = {name.strip() for name in views[-1].split(",")}
    described = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
    assert columns <= described
