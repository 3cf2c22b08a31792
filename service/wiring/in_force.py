"""The configuration in force: compiled settings, replaced as a whole when they are read again."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from service.api.auth import AppKeys
from service.config.settings import Settings
from service.domain.health import ConfigStatus
from service.domain.models import App
from service.domain.well_known import WellKnownFiles
from service.wiring.from_settings import app_keys, compile_app, well_known_files


class Compiled(Struct, frozen=True):
    """Settings and what is built from them before they are put in force, because it may take long."""

    settings: Settings
    apps: Mapping[str, App]
    keys: Sequence[AppKeys]
    well_known: Mapping[str, WellKnownFiles]


def compile_settings(settings: Settings) -> Compiled:
    """Compile the apps: their routes, gates, keys and files."""
    apps = {name: compile_app(name, settings) for name in settings.apps}
    keys = [app_keys(apps[name], name, settings) for name in apps]
    return Compiled(settings, apps, keys, well_known_files(settings))


class InForce:
    """Holds the compiled settings, and tells the parts that were built from them when they are replaced.

    The parts are told in one turn of the event loop, so that no request sees some of the new settings only.
    A request keeps the ``App`` that its key belonged to when it arrived. ``status`` is None if the
    settings do not come from a file.
    """

    def __init__(self, compiled: Compiled) -> None:
        self.now = compiled
        self.status: ConfigStatus | None = None
        self._followers: list[Callable[[Compiled], None]] = []

    def follow(self, follower: Callable[[Compiled], None]) -> None:
        """Call ``follower`` with the settings each time that they are replaced."""
        self._followers.append(follower)

    def replace(self, compiled: Compiled) -> None:
        """Put other settings in force."""
        self.now = compiled
        for follower in self._followers:
            follower(compiled)
