"""An installation of 0.2.0 starts after the update, with its file, its variables and its scripts.

``firstopen-0.2.0.toml`` is the file that ``firstopen init`` of 0.2.0 wrote, with every setting turned on.
"""

from pathlib import Path

import msgspec
import pytest
import rich_click as click

from service.app import create_app
from service.cli.main import main
from service.config.settings import Settings, SettingsError, parse
from service.doctor.local import settings_checks
from tests.support import CONFIG, ENV, FakeDub, LogLines, running

OLD_FILE = (Path(__file__).parent / "firstopen-0.2.0.toml").read_text()
OLD_SETTING = 'schemes = ["acme"]\ncrowd_limit = 5'
WITHOUT, WITH = CONFIG, CONFIG.replace('schemes = ["acme"]', OLD_SETTING)
VARIABLES = {
    "FIRSTOPEN_CONFIG": "firstopen.toml",
    "FIRSTOPEN_HOST": "::",
    "FIRSTOPEN_PORT": "8001",
    "FIRSTOPEN_OPS_PORT": "8002",
    "FIRSTOPEN_DATA_DIR": "/data",
    "FIRSTOPEN_DATABASE_URL": "postgresql://db/firstopen",
    "FIRSTOPEN_BUDGET_MS": "900",
    "FIRSTOPEN_FORWARDED_ALLOW_IPS": "10.0.0.0/8",
    "FIRSTOPEN_LOG_LEVEL": "debug",
    "DUB_BASE_URL": "https://dub.acme.com",
}
# Each command of 0.2.0, with its options and arguments.
COMMANDS = {
    "db forget-secret": {"name"},
    "db migrate": set[str](),
    "db status": set[str](),
    "export": {"--app", "--format", "--since", "--until"},
    "init": {"path"},
    "open": {
        *("url", "--app", "--app-version", "--clipboard", "--domain", "--install-id"),
        *("--install-referrer", "--ip", "--platform", "--user-agent"),
    },
    "outbox": set[str](),
    "outbox retry": {"entry_id", "--all"},
    "outbox show": {"entry_id", "--reveal"},
    "routes": {"url", "--app", "--app-version", "--expect", "--json"},
    "sandbox": {"--allow-host", "--data", "--demo", "--host", "--links", "--no-demo", "--port"},
    "serve": {"--host", "--port"},
}


def test_every_setting_and_variable_is_accepted() -> None:
    """The file with all settings is read; what has no effect any more is named with what took its place."""
    settings = parse(OLD_FILE, {**ENV, **VARIABLES})
    assert settings.deprecated == (("apps.acme.crowd_limit", "min_confidence"),)


def test_a_deprecated_setting_has_no_effect() -> None:
    """The settings are those of the same file without it."""
    assert _but_for_deprecated(parse(WITH, ENV)) == _but_for_deprecated(parse(WITHOUT, ENV))
    assert parse(WITHOUT, ENV).deprecated == ()


def test_it_is_known_in_its_place_only() -> None:
    """In any other table it is as unknown as any misspelled name."""
    with pytest.raises(SettingsError, match="unknown setting `crowd_limit`"):
        parse(CONFIG + "\n[limits]\ncrowd_limit = 5\n", ENV)


async def test_a_deprecated_setting_is_warned_of(dub: FakeDub, logs: LogLines) -> None:
    """The start goes on; one warning names the setting and what took its place."""
    async with running(create_app(parse(WITH, ENV), transport=dub)):
        (warning,) = logs.events("config.deprecated")
    assert (warning["level"], warning["setting"], warning["instead"]) == (
        "warning",
        "apps.acme.crowd_limit",
        "min_confidence",
    )


def test_doctor_names_a_deprecated_setting() -> None:
    """It says what to do."""
    found = settings_checks(parse(WITH, ENV), {"FIRSTOPEN_CONFIG": "firstopen.toml"})
    (check,) = [each for each in found if "crowd_limit" in each.detail]
    assert check.status == "warn"
    assert check.fix == "delete it; min_confidence took its place"


@pytest.mark.parametrize(("name", "parameters"), COMMANDS.items())
def test_every_command_is_there(name: str, parameters: set[str]) -> None:
    """Scripts and manifests that were written for 0.2.0 go on to work."""
    found: click.Command | None = main
    for part in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), part)
    assert found is not None
    options = {text for each in found.params for text in (*each.opts, *each.secondary_opts)}
    assert parameters <= options


def _but_for_deprecated(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, deprecated=())
