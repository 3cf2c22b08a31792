"""``firstopen calibration``: how often matching is right, for the operator who sets ``min_confidence``."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from service.cli.main import main
from service.config.settings import parse
from service.domain.calibration import ShadowMatch
from service.storage.calibration import CalibrationStore
from service.storage.database import Database
from service.storage.learned_rates import RateStore
from service.wiring.stores import engine
from tests.support import CONFIG, ENV

DAY_S = 86_400
AGREED = [ShadowMatch("agreed", 99, agrees=True)] * 49
MATCHES = [
    *AGREED,
    ShadowMatch("other_click", 92),
    ShadowMatch("refused", 40, agrees=True),
    ShadowMatch("none"),
]

Command = Callable[..., Result]


@pytest.fixture(params=["sqlite", "postgres"])
def env(request: pytest.FixtureRequest, tmp_path: Path, data_dir: Path) -> Mapping[str, str]:
    config = tmp_path / "firstopen.toml"
    config.write_text(CONFIG)
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres").database()
    paths = {"FIRSTOPEN_CONFIG": str(config), "FIRSTOPEN_DATA_DIR": str(data_dir)}
    return {**ENV, **paths, "FIRSTOPEN_DATABASE_URL": url}


@pytest.fixture
def calibration(env: Mapping[str, str]) -> Command:
    return lambda *args: CliRunner().invoke(main, ["calibration", *args], env=dict(env))


def count(env: Mapping[str, str], matches: Sequence[ShadowMatch], days_ago: int = 0) -> None:
    """Count shadow matches as serve does."""

    async def add() -> None:
        database = Database(engine(parse(CONFIG, env)), structlog.get_logger())
        await database.open()
        CalibrationStore(database, lambda: time.time() - days_ago * DAY_S).add("acme", matches)
        await database.close()

    asyncio.run(add())


def test_the_numbers_of_each_app(calibration: Command, env: Mapping[str, str]) -> None:
    """Counts, precision and recall with their intervals, and the curve; an app without any says so."""
    count(env, MATCHES)
    result = calibration()
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.replace("\u2502", " ").split()) for line in result.output.splitlines()]
    assert lines[:5] == [
        "acme: 52 first opens with certain evidence in 90 days",
        "matched 50 (agreed 49, other 1), refused 1, none 1",
        "precision 0.980 [0.895, 0.997]",
        "recall 0.942 [0.844, 0.980]",
        "0.961 [0.868, 0.989] with a candidate",
    ]
    assert [line for line in lines if line.startswith("0.9") and " to " in line] == [
        "0.90 to 0.95 1 0.920 0.000 [0.000, 0.793]",
        "0.98 to 1.00 49 0.990 1.000 [0.927, 1.000]",
    ]
    assert lines[-2:] == [
        "globex: 0 first opens with certain evidence in 90 days",
        "none yet: see firstopen calibration --help for which opens count",
    ]


def test_json_of_one_app_and_some_days(calibration: Command, env: Mapping[str, str]) -> None:
    """The same numbers for a program; ``--days`` leaves out older ones."""
    count(env, MATCHES)
    count(env, [ShadowMatch("none")], days_ago=10)
    (found,) = json.loads(calibration("--app", "acme", "--json").output)
    assert (found["app"], found["opens"], found["otherClick"], found["none"]) == ("acme", 53, 1, 2)
    assert found["precision"] == {"value": 0.98, "low": 0.895, "high": 0.9965}
    assert found["curve"][-1] == {
        "atLeast": 0.98,
        "below": 1.0,
        "opens": 49,
        "stated": 0.99,
        "right": {"value": 1.0, "low": 0.9273, "high": 1.0},
    }
    (recent,) = json.loads(calibration("--app", "acme", "--days", "7", "--json").output)
    assert (recent["days"], recent["opens"]) == (7, 52)


def test_what_cannot_be_read_is_one_line(
    calibration: Command, env: Mapping[str, str], data_dir: Path
) -> None:
    """An unknown app, and a folder without a database."""
    unknown = calibration("--app", "acne")
    assert (unknown.exit_code, unknown.output) == (
        2,
        "firstopen: --app: unknown app 'acne'; configured: acme, globex\n",
    )
    if not env["FIRSTOPEN_DATABASE_URL"]:
        missing = calibration()
        assert missing.exit_code == 2
        assert f"FIRSTOPEN_DATA_DIR: there is no database in {data_dir}" in missing.output


def test_the_learned_rates_of_each_app(calibration: Command, env: Mapping[str, str]) -> None:
    """What matching assumes, beside the default, the bounds, and how many first opens it rests on."""

    async def add() -> None:
        database = Database(engine(parse(CONFIG, env)), structlog.get_logger())
        await database.open()
        RateStore(database, time.time).add("acme", {"ios_of": 180, "ios": 120})
        await database.close()

    asyncio.run(add())
    lines = [" ".join(line.replace("\u2502", " ").split()) for line in calibration().output.splitlines()]
    assert "first opens on iOS 0.65 0.5 0.08 to 0.92 180" in lines
    (rate,) = (each for each in json.loads(calibration("--json").output)[0]["rates"] if each["name"] == "ios")
    assert rate == {
        "name": "ios",
        "value": 0.65,
        "default": 0.5,
        "least": 0.08,
        "most": 0.92,
        "observations": 180,
    }
