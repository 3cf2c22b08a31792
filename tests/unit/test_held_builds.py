"""Which builds are held at the gate: by platform and version, or all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config.settings import SettingsError, parse
from service.domain.device_identity import Platform
from service.domain.gate import Gate, GateRule, Gates, PlatformGateRule
from tests.support import CONFIG, ENV

STORE = "https://apps.apple.com/app/id1234567890"
COMMON = "https://acme.com/get"
RULE = GateRule(
    min_supported_version="2.0",
    update_url=COMMON,
    ios=PlatformGateRule(min_supported_version="2.1", update_url=STORE),
    android=PlatformGateRule(update_url="market://details?id=com.acme.app"),
)


@pytest.mark.parametrize(
    ("platform", "version", "url"),
    [
        ("ios", "2.0.9", STORE),
        ("ios", "2.1", None),
        ("ios", "2.10", None),
        ("ios", "2.1.0 (345)", None),
        ("android", "1.9rc1", "market://details?id=com.acme.app"),
        ("android", "2", None),
        (None, "1.9.9", COMMON),
        (None, "2.0", None),
        ("ios", None, None),
        ("ios", "nightly", None),
    ],
)
def test_a_build_that_is_too_old_is_sent_to_its_store(
    platform: Platform | None, version: str | None, url: str | None
) -> None:
    """A platform's own values replace the common ones; a version that cannot be read is new enough."""
    found = Gates(RULE, "update").gate(platform, version)
    assert found == (None if url is None else Gate("update", "update", url, None))


def test_maintenance_holds_every_build() -> None:
    """Maintenance has precedence over versions, and holds builds that send none."""
    rule = GateRule(min_supported_version="2", maintenance=True, screen="closed", message="Back soon")
    gates = Gates(rule, "update")
    for version in (None, "1", "3"):
        assert gates.gate("ios", version) == Gate("maintenance", "closed", None, "Back soon")


def test_an_app_without_rules_has_an_open_gate() -> None:
    """Without a version and maintenance nobody is held; then answers do not ask the gate at all."""
    assert Gates(GateRule(message="unused", matching=False), "update").is_open
    assert not Gates(GateRule(ios=PlatformGateRule(min_supported_version="1")), "update").is_open
    assert Gates(GateRule(ios=PlatformGateRule(min_supported_version="1")), "update").gate(None, "0") is None


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4)
)
def test_a_build_passes_if_it_is_at_least_the_minimum(minimum: list[int], build: list[int]) -> None:
    """Whatever the numbers: who is not held by a minimum is not held by a lower one."""
    gates = Gates(GateRule(min_supported_version=".".join(map(str, minimum))), "update")
    longest = max(len(minimum), len(build))
    padded = [each + [0] * (longest - len(each)) for each in (build, minimum)]
    assert (gates.gate("ios", ".".join(map(str, build))) is None) == (padded[0] >= padded[1])


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (
            '[apps.acme.gate]\nmin_supported_version = "latest"',
            r"gate.min_supported_version: expected dotted",
        ),
        ('[apps.acme.gate.ios]\nmin_supported_version = "x"', r"gate.ios.min_supported_version: expected"),
        (
            '[apps.acme.gate.android]\nupdate_url = "javascript:alert(1)"',
            r"gate.android.update_url: expected",
        ),
        ('[apps.acme.gate]\nupdate_url = "acme.com"', r"gate.update_url: expected a URL"),
        (
            "[apps.acme.gate]\nmaintainance = true",
            r"gate: unknown setting `maintainance`, did you mean `maintenance`",
        ),
        ('[apps.acme.gate]\nmaintenance = "yes"', r"gate.maintenance: "),
    ],
)
def test_a_bad_gate_is_refused_by_name(table: str, problem: str) -> None:
    """A mistake in a gate stops the start: it must not be found on the day when the gate is needed."""
    with pytest.raises(SettingsError, match=r"^apps\.acme\." + problem):
        parse(f"{CONFIG}\n{table}\n", ENV)
