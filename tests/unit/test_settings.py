"""A wrong setting stops the boot, with its path and what is expected."""

from pathlib import Path

import pytest

from service.config.route_checks import refuse_failing_tests
from service.config.settings import SettingsError, load, parse
from service.config.starter import STARTER
from tests.receiver import SECRET
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
        ("", "apps: is required"),
        ("[apps]", "apps: expected at least one"),
        ("apps = 3", "apps: expected a table"),
        (MINIMAL + "[cach]", "the file: unknown setting `cach`, did you mean `cache`?"),
        (
            MINIMAL.replace("default_screen", "defaultscreen"),
            "apps.acme: unknown setting `defaultscreen`, did you mean `default_screen`?",
        ),
        (MINIMAL.replace('"home"', "3"), "apps.acme.default_screen: expected text of at least 1 character"),
        (MINIMAL.replace('["acme.link"]', "[]"), "apps.acme.domains: expected a list of at least 1 entry"),
        (MINIMAL.replace("acme.link", "*"), r"apps.acme.domains\[0\]: expected a domain"),
        (
            MINIMAL.replace("dub_pk_acme", " "),
            r"apps.acme.publishable_keys\[0\]: expected 1 to 512 printable ASCII",
        ),
        (MINIMAL + 'schemes = ["javascript"]', r"apps.acme.schemes\[0\]: expected a scheme of the app's own"),
        (MINIMAL + 'leads = "nobody"', "apps.acme.leads: expected one of 'client', 'server'"),
        (
            MINIMAL + ROUTE.replace("/:x", "/("),
            r"apps.acme.routes\[0\].pattern: 'https://acme.com/\(' is not a usable URLPattern",
        ),
        (
            MINIMAL + ROUTE + 'min_version = "two"',
            r"apps.acme.routes\[0\].min_version: .* expected dotted numbers",
        ),
        (
            MINIMAL + ROUTE + "minversion = 2",
            r"apps.acme.routes\[0\]: unknown setting `minversion`, did you mean `min_version`\?",
        ),
        (
            MINIMAL + ROUTE + 'query = ["x"]',
            r"apps.acme.routes\[0\].query: .* names 'x', which is also a group of the pattern",
        ),
        (
            MINIMAL + '[[apps.acme.route_tests]]\nurl = "https://acme.com/1"',
            r"apps.acme.route_tests\[0\].screen: is required",
        ),
        (MINIMAL + "[cache]\nanswer_ttl_s = 0", "cache.answer_ttl_s: expected a number from 1 to 86400"),
        (MINIMAL + "min_confidence = 1.5", "apps.acme.min_confidence: expected a number from 0 to 1"),
        (MINIMAL + TWIN, "apps.twin.domains: 'acme.link' is already used by apps.acme"),
        (
            MINIMAL + TWIN.replace("acme.link", "www.ACME.link"),
            "apps.twin.domains: 'acme.link' is already used by apps.acme",
        ),
        (
            MINIMAL + TWIN.replace("acme.link", "twin.link"),
            "apps.twin.publishable_keys .* is already used by apps.acme",
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
        ({}, "FIRSTOPEN_SECRET: expected a secret of 32 .* got nothing"),
        ({"FIRSTOPEN_SECRET": " , "}, "FIRSTOPEN_SECRET: expected a secret of 32 .* got nothing"),
        ({"FIRSTOPEN_SECRET": "abc"}, "FIRSTOPEN_SECRET: expected .* got one of 3; .*openssl rand -hex 32"),
        ({"FIRSTOPEN_SECRET": f"{'x' * 32},abc"}, "FIRSTOPEN_SECRET: expected .* got one of 3"),
        (
            {**ENV, "FIRSTOPEN_BUDGETMS": "1500"},
            "FIRSTOPEN_BUDGETMS: unknown variable, did you mean FIRSTOPEN_BUDGET_MS?",
        ),
        ({**ENV, "FIRSTOPEN_DATADIR": "x"}, "FIRSTOPEN_DATADIR: .*, did you mean FIRSTOPEN_DATA_DIR?"),
        ({**ENV, "FIRSTOPEN_FORWARDED_IPS": "x"}, "did you mean FIRSTOPEN_FORWARDED_ALLOW_IPS?"),
        ({**ENV, "FIRSTOPEN_WHATEVER": "x"}, "FIRSTOPEN_WHATEVER: unknown variable$"),
        (
            {**ENV, "FIRSTOPEN_PORT": "http"},
            "FIRSTOPEN_PORT: expected an integer from 1 to 65535, got 'http'",
        ),
        (
            {**ENV, "FIRSTOPEN_OPS_PORT": "tcp://10.0.0.1:9000"},
            "FIRSTOPEN_OPS_PORT: expected an integer from 1 to 65535",
        ),
        ({**ENV, "FIRSTOPEN_OPS_PORT": "8000"}, "FIRSTOPEN_OPS_PORT: expected a port other than FIRSTOPEN_"),
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
    assert settings.ops_port is None
    assert settings.dub_base_url == "https://api.dub.co"
    assert (app.update_screen, app.leads, app.ip_matching, app.trusts_forwarded_ip) == (
        "update",
        "server",
        "on",
        False,
    )
    assert (settings.cache.answer_ttl_s, settings.cache.unknown_link_ttl_s) == (3600, 60)


@pytest.mark.parametrize("setting", ["server_keys_env", "dub_api_key_env"])
@pytest.mark.parametrize("value", [None, "", " "])
def test_a_key_variable_that_is_not_set_stops_the_boot(setting: str, value: str | None) -> None:
    """The app counts on it; a command that only looks at the settings does not need it."""
    env = ENV if value is None else {**ENV, "A": value}
    text = f'{MINIMAL}{setting} = "A"'
    with pytest.raises(SettingsError, match=f"apps.acme.{setting}: the environment variable A is not set"):
        parse(text, env)
    parse(text, env, keys_required=False)


def test_an_app_may_name_any_variable() -> None:
    """One of ours that an app names is known."""
    env = {**ENV, "FIRSTOPEN_ACME_KEY": "dub_1"}
    assert parse(MINIMAL + 'dub_api_key_env = "FIRSTOPEN_ACME_KEY"', env).dub_api_keys == {"acme": "dub_1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FIRSTOPEN_SERVICE_HOST", "10.0.0.1"),
        ("FIRSTOPEN_SERVICE_PORT", "80"),
        ("FIRSTOPEN_SERVICE_PORT_HTTP", "80"),
        ("FIRSTOPEN_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("FIRSTOPEN_PORT_80_TCP_PROTO", "tcp"),
        ("FIRSTOPEN_DATABASE_PORT", "tcp://10.0.0.2:5432"),
        ("FIRSTOPEN_DATABASE_SERVICE_HOST", "10.0.0.2"),
    ],
)
def test_what_kubernetes_adds_is_no_typo(name: str, value: str) -> None:
    """A pod beside a Service called firstopen finds it in its environment, unless it asks not to."""
    assert parse(MINIMAL, {**ENV, name: value}).port == 8000


@pytest.mark.parametrize("key", ["dub_caf\u00e9", "dub two words", "dub_\x00", "d" * 513])
@pytest.mark.parametrize("name", ["A", "B"])
def test_a_key_that_no_header_carries_stops_the_boot(name: str, key: str) -> None:
    """The variable is named, its value is not: sent as it is, it would look as if Dub were away."""
    with pytest.raises(SettingsError, match=f"^{name}: expected") as refused:
        parse(
            MINIMAL + 'server_keys_env = "A"\ndub_api_key_env = "B"', {**ENV, "A": "a", "B": "b", name: key}
        )
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
    hook = {"ACME_WEBHOOK_URL": "https://api.acme.com/hooks", "ACME_WEBHOOK_SECRET": SECRET}
    full = parse(everything, {**ENV, "ACME_SERVER_KEYS": "dub_server", **hook})
    assert full.server_keys == {"acme": ("dub_server",)}
    assert len(full.apps["acme"].route_tests) == 1
    refuse_failing_tests(full.apps)
    assert full.apps["acme"].schemes == ("acme",)
    assert full.server.drain_ms == 1000
    assert full.webhooks["acme"].url == "https://api.acme.com/hooks"
