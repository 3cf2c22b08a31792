"""Which secrets the data was written under: a start that does not list one that is needed is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from service.domain.errors import StoreFailed
from service.storage.database import Database
from service.storage.engines.port import Engine
from service.storage.errors import EngineUnavailable, SecretNotListed
from service.storage.fingerprints import SecretCheck, fingerprint, forget_secret, known_secrets
from service.storage.migrate import migrate
from service.storage.statements import Statement
from tests.storage.conftest import MakeEngine
from tests.support import LogLines, until

KEPT_S = 1000.0
OLD, NEW, NEWER = "the old secret", "the new secret", "the newer secret"


@pytest.fixture
async def engine(make_engine: MakeEngine) -> AsyncIterator[Engine]:
    engine = make_engine()
    await engine.connect()
    await migrate(engine)
    yield engine
    await engine.close()


async def enter(engine: Engine, *secrets: str) -> None:
    await SecretCheck(secrets, KEPT_S).verify(engine)


async def known(engine: Engine) -> dict[str, bool]:
    """Return the known fingerprints, and whether each is the current secret's."""
    return {each.fingerprint: each.replaced_at is None for each in await known_secrets(engine)}


async def replaced_ago(engine: Engine, secret: str, seconds: float) -> None:
    sql = "UPDATE secrets SET replaced_at = {now_ms} - ? WHERE fingerprint = ?"
    await engine.commit_alone([Statement(sql, (int(seconds * 1000), fingerprint(secret)))])


async def test_the_same_secret_again(engine: Engine) -> None:
    """A restart is let in; of several that are listed, only the current one is noted."""
    await enter(engine, OLD)
    first = await known_secrets(engine)
    await enter(engine, OLD)
    await enter(engine, OLD, NEW)
    assert await known_secrets(engine) == first
    assert await known(engine) == {fingerprint(OLD): True}


async def test_another_secret_is_refused(engine: Engine) -> None:
    """The message names the variable, the secret that is missing, and both ways out. Nothing is noted."""
    await enter(engine, OLD)
    with pytest.raises(SecretNotListed) as refused:
        await enter(engine, NEW)
    for told in ("FIRSTOPEN_SECRET=current,older", fingerprint(OLD), "firstopen db forget-secret"):
        assert told in str(refused.value)
    assert OLD not in str(refused.value)
    assert await known(engine) == {fingerprint(OLD): True}


async def test_a_secret_is_replaced(engine: Engine) -> None:
    """The old one must be listed for as long as anything may be kept that was written under it."""
    await enter(engine, OLD)
    await enter(engine, NEW, OLD)
    assert await known(engine) == {fingerprint(OLD): False, fingerprint(NEW): True}
    for secrets in ([NEW], [OLD], [NEWER, OLD]):
        with pytest.raises(SecretNotListed):
            await enter(engine, *secrets)
    await replaced_ago(engine, OLD, KEPT_S - 100)
    with pytest.raises(SecretNotListed):
        await enter(engine, NEW)
    await replaced_ago(engine, OLD, KEPT_S + 100)
    await enter(engine, NEW)
    assert await known(engine) == {fingerprint(NEW): True}


async def test_a_replacement_is_taken_back(engine: Engine) -> None:
    """The old secret first again: it is the current one, and the new one is needed for its time."""
    await enter(engine, OLD)
    await enter(engine, NEW, OLD)
    await replaced_ago(engine, OLD, KEPT_S + 100)
    await enter(engine, OLD, NEW)
    assert await known(engine) == {fingerprint(OLD): True, fingerprint(NEW): False}


async def test_a_lost_secret_is_given_up(engine: Engine) -> None:
    """By its fingerprint; another name changes nothing."""
    await enter(engine, OLD)
    assert not await forget_secret(engine, "nobody's")
    assert await forget_secret(engine, fingerprint(OLD))
    await enter(engine, NEW)


async def test_one_of_two_first_starts_is_refused(make_engine: MakeEngine, engine: Engine) -> None:
    """Two replicas that start together on a new database with different secrets: one of them is let in."""
    other = make_engine()
    await other.connect()
    results = await asyncio.gather(enter(engine, OLD), enter(other, NEW), return_exceptions=True)
    await other.close()
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "SecretNotListed"]
    assert len(await known(engine)) == 1


async def test_a_database_that_comes_back_is_checked_first(
    make_engine: MakeEngine, engine: Engine, logs: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away at the start and knows another secret: nothing is read or written, until that is mended."""
    await enter(engine, OLD)
    late = make_engine()
    connect = late.connect
    is_away = True

    async def connect_late() -> None:
        if is_away:
            raise EngineUnavailable("away")
        await connect()

    monkeypatch.setattr(late, "connect", connect_late)
    monkeypatch.setattr("service.storage.database._RETRY_S", 0.01)
    database = Database(late, structlog.get_logger(), check=SecretCheck([NEW], KEPT_S).verify)
    await database.open()
    assert database.failing == "away"
    database.write_behind(Statement("INSERT INTO erasures VALUES (1, 1)"))
    is_away = False
    await until(lambda: database.failing != "away")
    assert "FIRSTOPEN_SECRET" in (database.failing or "")
    with pytest.raises(StoreFailed, match="FIRSTOPEN_SECRET"):
        await database.write(Statement("INSERT INTO erasures VALUES (2, 2)"))
    with pytest.raises(StoreFailed, match="FIRSTOPEN_SECRET"):
        await database.read("SELECT * FROM erasures")
    assert (await engine.fetch([Statement("SELECT * FROM erasures")]))[0] == []
    told = [line["detail"] for line in logs.events("store.failing")]
    assert (len(told), told[0], told[1][:16]) == (2, "away", "FIRSTOPEN_SECRET")
    assert not logs.events("store.refused")
    await forget_secret(engine, fingerprint(OLD))
    await until(lambda: database.failing is None)
    await database.write(Statement("INSERT INTO erasures VALUES (2, 2)"))
    await database.close()
    assert (await engine.fetch([Statement("SELECT device FROM erasures ORDER BY device")]))[0] == [(1,), (2,)]
