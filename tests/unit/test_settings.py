"""A wrong setting stops the boot, with its path and what is expected."""

from pathlib import Path

import pytest

from service.route_checks import refuse_failing_tests
from service.settings import SettingsError, load, parse
from service.starter import STARTER
from tests.support import CONFIG, ENV

MINIMAL = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
domains = ["acme.link"]
default_screen = "home"
"""
ROUTE = '[[apps.acme.routes]]\npattern = "https://acme.com/:x"\nscreen = "x"\n'
TWIN = MINIMAL.replace("apps.acme", "apps.twin")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[apps", "firstopen.toml: not TOML"),
        ("", "the file: object missing required field `apps`"),
        ("[apps]", "apps: expected at least one"),
        ("apps = 3", "apps: expected `object`"),
        (MINIMAL + "[cach]", "object contains unknown field `cach`"),
        (
            MINIMAL.replace("default_screen", "defaultscreen"),
            "apps.acme: object contains unknown field `defaultscreen`",
        ),
        (MINIMAL.replace('"home"', "3"), "apps.acme.default_screen: expected `str`, got `int`"),
        (MINIMAL.replace('["acme.link"]', "[]"), "apps.acme.domains: expected `array` of length >= 1"),
        (MINIMAL.replace("acme.link", "*"), r"apps.acme.domains\[0\]: expected a domain"),
        (
            MINIMAL.replace("dub_pk_acme", " "),
            r"apps.acme.publishable_keys\[0\]: expected 1 to 512 printable ASCII",
        ),
        (MINIMAL + 'schemes = ["javascript"]', r"apps.acme.schemes\[0\]: expected a scheme of the app's own"),
        (MINIMAL + 'leads = "nobody"', "apps.acme.leads: invalid enum value 'nobody'"),
        (
            MINIMAL + ROUTE.replace("/:x", "/("),
            r"apps.acme.routes\[0\].pattern: 'https://acme.com/\(' is no URLPattern",
        ),
        (
            MINIMAL + ROUTE + 'min_version = "two"',
            r"apps.acme.routes\[0\].min_version: .* expected dotted numbers",
        ),
        (
            MINIMAL + ROUTE + "minversion = 2",
            r"apps.acme.routes\[0\]: object contains unknown field `minversion`",
        ),
        (
            MINIMAL + ROUTE + 'query = ["x"]',
            r"apps.acme.routes\[0\].query: .* names 'x', and so does the pattern",
        ),
        (
            MINIMAL + '[[apps.acme.route_tests]]\nurl = "https://acme.com/1"',
            r"apps.acme.route_tests\[0\]: object missing required field `screen`",
        ),
        (MINIMAL + "[cache]\nanswer_ttl_s = 0", "cache.answer_ttl_s: expected `float` >= 1"),
        (MINIMAL + "crowd_limit = 1001", "apps.acme.crowd_limit: expected `int` <= 1000"),
        (MINIMAL + TWIN, "apps.twin.domains: 'acme.link' is claimed by apps.acme already"),
        (
            MINIMAL + TWIN.replace("acme.link", "www.ACME.link"),
            "apps.twin.domains: 'acme.link' is claimed by apps.acme",
        ),
        (
            MINIMAL + TWIN.replace("acme.link", "twin.link"),
            "apps.twin.publishable_keys .* is claimed by apps.acme already",
        ),
    ],
)
def test_a_wrong_file_stops_the_boot(text: str, problem: str) -> None:
    """The message is the setting's path and what was expected."""
    with pytest.raises(SettingsError, match=problem):
        parse(text, ENV)


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({}, "FIRSTOPEN_SECRET: expected a secret"),
        ({"FIRSTOPEN_SECRET": " , "}, "FIRSTOPEN_SECRET: expected a secret"),
        (
            {**ENV, "FIRSTOPEN_PORT": "http"},
            "FIRSTOPEN_PORT: expected an integer from 1 to 65535, got 'http'",
        ),
        ({**ENV, "FIRSTOPEN_BUDGET_MS": "99"}, "FIRSTOPEN_BUDGET_MS: expected an integer from 100 to 10000"),
        ({**ENV, "FIRSTOPEN_LOG_LEVEL": "loud"}, "FIRSTOPEN_LOG_LEVEL: expected one of debug"),
        (
            {**ENV, "FIRSTOPEN_FORWARDED_ALLOW_IPS": "10.0.0.0/33"},
            "FIRSTOPEN_FORWARDED_ALLOW_IPS: expected addresses",
        ),
        ({**ENV, "DUB_BASE_URL": "api.dub.co"}, "DUB_BASE_URL: expected an http or https URL"),
        ({**ENV, "DUB_BASE_URL": "https://key@api.dub.co"}, "DUB_BASE_URL: expected an http or https URL"),
    ],
)
def test_a_wrong_environment_stops_the_boot(env: dict[str, str], problem: str) -> None:
    """The message is the variable's name and what was expected."""
    with pytest.raises(SettingsError, match=problem):
        parse(MINIMAL, env)


def test_a_missing_file_stops_the_boot(tmp_path: Path) -> None:
    """FIRSTOPEN_CONFIG that names nothing is an error, never the demo."""
    with pytest.raises(SettingsError, match="FIRSTOPEN_CONFIG: cannot read"):
        load({**ENV, "FIRSTOPEN_CONFIG": str(tmp_path / "nowhere.toml")})


def test_defaults_are_the_contracts() -> None:
    """What is left out has the documented default."""
    settings = parse(MINIMAL, ENV)
    app = settings.apps["acme"]
    assert (settings.host, settings.port, settings.budget_ms) == ("127.0.0.1", 8000, 1500)
    assert settings.dub_base_url == "https://api.dub.co"
    assert (app.update_screen, app.leads, app.ip_matching, app.trusts_forwarded_ip) == (
        "update",
        "server",
        "on",
        False,
    )
    assert (settings.cache.answer_ttl_s, settings.cache.unknown_link_ttl_s) == (3600, 60)


def test_keys_that_nobody_set_are_named_not_fatal() -> None:
    """An app's key variable that is not set is reported; opens need none."""
    settings = parse(MINIMAL + 'server_keys_env = "A"\ndub_api_key_env = "B"', ENV)
    assert settings.keys_missing == ("A", "B")


@pytest.mark.parametrize("key", ["dub_caf\u00e9", "dub two words", "dub_\x00", "d" * 513])
@pytest.mark.parametrize("name", ["A", "B"])
def test_a_key_that_no_header_carries_stops_the_boot(name: str, key: str) -> None:
    """The variable is named, its value is not: sent as it is, it would look as if Dub were away."""
    with pytest.raises(SettingsError, match=f"^{name}: expected") as refused:
        parse(MINIMAL + 'server_keys_env = "A"\ndub_api_key_env = "B"', {**ENV, name: key})
    assert key not in str(refused.value)


def test_no_secret_is_shown() -> None:
    """Settings can be printed, in a traceback say, without giving a secret away."""
    settings = parse(CONFIG, {**ENV, "ACME_DUB_API_KEY": "dub_hidden"})
    for secret in ("dub_hidden", ENV["FIRSTOPEN_SECRET"]):
        assert secret not in repr(settings)


def test_the_starter_file_works_as_it_is() -> None:
    """What ``firstopen init`` writes is a valid file, also with every commented setting on."""
    assert parse(STARTER, ENV).apps["acme"].domains == ("acme.link",)
    everything = "\n".join(
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line
        for line in STARTER.splitlines()
    )
    full = parse(everything, {**ENV, "ACME_SERVER_KEYS": "dub_server"})
    assert full.server_keys == {"acme": ("dub_server",)}
    assert len(full.apps["acme"].route_tests) == 1
    refuse_failing_tests(full.apps)
    assert full.apps["acme"].schemes == ("acme",)
    assert full.server.drain_ms == 1000
