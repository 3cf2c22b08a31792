"""Pages about settings, metrics and log events say what the code says."""

import re
from typing import Any

import msgspec
import pytest

from service.config.settings import AndroidSettings, AppSettings, File, IosSettings, WebhookSettings, parse
from service.domain.gate import GateRule, PlatformGateRule
from service.domain.routing import RouteRule, RouteTest
from service.domain.short_links import LinkTemplateRule
from tests.docs.generated import (
    SECTIONS,
    described_events,
    described_metrics,
    described_settings,
    rendered,
    toml_of_starter,
)
from tests.docs.pages import ROOT
from tests.support import ENV

CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize("page", SECTIONS)
def test_a_generated_part_is_up_to_date(page: str) -> None:
    """If this fails, run ``make docs`` and look at what changed."""
    assert (ROOT / page).read_text() == rendered(page)


def test_every_setting_is_in_the_starter_file_with_its_meaning() -> None:
    """``firstopen init`` writes every setting that there is, each with a comment of its own."""
    tables: dict[str, Any] = {
        "apps.*": AppSettings,
        "apps.*.routes": RouteRule,
        "apps.*.route_tests": RouteTest,
        "apps.*.ios": IosSettings,
        "apps.*.android": AndroidSettings,
        "apps.*.webhook": WebhookSettings,
        "apps.*.link_templates": LinkTemplateRule,
        "apps.*.gate": GateRule,
        "apps.*.gate.ios": PlatformGateRule,
        "apps.*.gate.android": PlatformGateRule,
    }
    tables |= {field.name: field.type for field in msgspec.structs.fields(File) if field.name != "apps"}
    nested = {
        ("apps.*", name)
        for name in ("routes", "route_tests", "ios", "android", "webhook", "gate", "link_templates")
    }
    nested |= {("apps.*.gate", name) for name in ("ios", "android")}
    exist = {(table, field.name) for table, of in tables.items() for field in msgspec.structs.fields(of)}
    written = described_settings()
    assert written.keys() == exist - nested
    assert [setting for setting, said in written.items() if len(said.comment) < 4] == []


def test_the_starter_file_shows_defaults() -> None:
    """With every line in force the file is valid, and its values are the defaults where there are some."""
    shown = toml_of_starter()
    for table, of in ((field.name, field.type) for field in msgspec.structs.fields(File)):
        for field in msgspec.structs.fields(of) if table != "apps" else ():
            if field.default not in (None, msgspec.NODEFAULT):
                assert shown[table][field.name] == field.default, field.name
    for field in msgspec.structs.fields(AppSettings):
        if field.default not in (None, (), GateRule(), msgspec.NODEFAULT):
            assert shown["apps"]["acme"][field.name] == field.default, field.name


def test_every_variable_of_ours_is_described() -> None:
    """The page has every FIRSTOPEN_* variable that the service reads, and no other."""
    described = set(
        re.findall(r"`(FIRSTOPEN_\w+)`", "\n".join(re.findall(r"^\| .*?\|", CONFIGURATION, re.MULTILINE)))
    )
    config = '[apps.a]\npublishable_keys = ["k"]\ndomains = ["a.link"]\ndefault_screen = "home"\n'
    read: set[str] = set()

    class Reading(dict[str, str]):
        def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
            read.add(name)
            return super().get(name, default)

    parse(config, Reading(ENV))
    assert described - read == {"FIRSTOPEN_CONFIG"}
    assert {name for name in read if name.startswith("FIRSTOPEN_")} <= described


def test_metrics_and_events_have_a_meaning() -> None:
    metrics = {name: metric.documentation for name, metric, _ in described_metrics()}
    assert len(metrics) > 20
    assert all(len(meaning) > 10 for meaning in [*metrics.values(), *described_events().values()])
