"""Decide which builds of an app are held at a gate: builds that are too old, or all during maintenance.

A gate does not change an open's route or credit. The app shows the gate's screen instead of the route's.
"""

from collections.abc import Mapping
from typing import Literal

import ada_url
from msgspec import Struct

from service.domain.device_identity import Platform
from service.domain.errors import FirstopenError
from service.domain.routing import NEVER_SCHEMES, NonEmpty, parse_version


class Gate(Struct, frozen=True, gc=False):
    """What the app shows instead of the route's screen. ``url`` is where to get a newer build."""

    kind: Literal["update", "maintenance"]
    screen: str
    url: str | None
    message: str | None


class PlatformGateRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[apps.*.gate.ios]`` and ``[apps.*.gate.android]``: what differs on one platform."""

    min_supported_version: NonEmpty | None = None
    update_url: NonEmpty | None = None


class GateRule(PlatformGateRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[apps.*.gate]``: which builds must be updated, and switches for emergencies."""

    ios: PlatformGateRule | None = None
    android: PlatformGateRule | None = None
    maintenance: bool = False
    screen: NonEmpty = "maintenance"
    message: NonEmpty | None = None
    matching: bool = True


class BadGate(FirstopenError):
    """A gate cannot be compiled. ``field`` is the invalid setting."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class _OldBuilds(Struct, frozen=True):
    minimum: tuple[int, ...]
    gate: Gate


class Gates:
    """One app's compiled gates. The constructor raises ``BadGate``."""

    def __init__(self, rule: GateRule, update_screen: str) -> None:
        _check("", rule)
        by_platform: Mapping[Platform | None, PlatformGateRule | None]
        by_platform = {None: None, "ios": rule.ios, "android": rule.android}
        self._maintenance = Gate("maintenance", rule.screen, None, rule.message) if rule.maintenance else None
        self._old_builds = {}
        for platform, own in by_platform.items():
            if own is not None:
                _check(f"{platform}.", own)
            minimum = (own and own.min_supported_version) or rule.min_supported_version
            if minimum is not None:
                url = (own and own.update_url) or rule.update_url
                gate = Gate("update", update_screen, url, None)
                self._old_builds[platform] = _OldBuilds(parse_version(minimum) or (), gate)

    @property
    def is_open(self) -> bool:
        """Return True if no build is ever held."""
        return self._maintenance is None and not self._old_builds

    def gate(self, platform: Platform | None, app_version: str | None) -> Gate | None:
        """Return the gate that holds this build, or None.

        Maintenance holds every build. As for routes, a missing or unreadable ``app_version`` counts as new
        enough.
        """
        if self._maintenance is not None:
            return self._maintenance
        old_builds = self._old_builds.get(platform)
        if old_builds is None or app_version is None:
            return None
        version = parse_version(app_version)
        return old_builds.gate if version is not None and version < old_builds.minimum else None


def _check(prefix: str, rule: PlatformGateRule) -> None:
    if rule.min_supported_version is not None and parse_version(rule.min_supported_version) is None:
        raise BadGate(f"{prefix}min_supported_version", "expected dotted numbers, such as 2.10")
    if rule.update_url is not None and not _is_usable(rule.update_url):
        raise BadGate(
            f"{prefix}update_url", "expected a URL, such as https://apps.apple.com/app/id1234567890"
        )


def _is_usable(text: str) -> bool:
    try:
        url = ada_url.URL(text)
    except ValueError:
        return False
    return str(url.protocol).removesuffix(":") not in NEVER_SCHEMES
