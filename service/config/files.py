"""Read ``firstopen.toml`` and the ``.env`` beside it, at the start and again when they have changed.

What can go wrong: a file is read while it is being written (the caller waits until ``state`` has stopped
changing); a symbolic link is replaced, as Kubernetes does with a mounted ConfigMap (``state`` is that of the
file behind the links); the ``.env`` overrides the environment (it never does, as at the start).
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from msgspec import Struct, structs

from service.config.env_file import ENV_FILE, BadEnvFile, read_env_file
from service.config.route_checks import refuse_failing_tests
from service.config.settings import Settings, SettingsError, parse_file, read_file

State = tuple[tuple[int, ...] | None, ...]

# Fields of ``Settings`` that are taken over while the service runs. All others need a restart.
RELOADED = frozenset({"apps", "limits", "server_keys", "dub_api_keys", "webhooks", "deprecated"})
_VARIABLES = {
    "secrets": "FIRSTOPEN_SECRET",
    "dub_base_url": "DUB_BASE_URL",
    "tracing": "OTEL_*",
}


class Loaded(Struct, frozen=True):
    """Settings as read. ``revision`` identifies the text of ``firstopen.toml``."""

    settings: Settings
    revision: str
    files: "ConfigFiles"
    state: State  # of the files, before they were read


class ConfigFiles:
    """The files of FIRSTOPEN_CONFIG. ``env`` is the environment without the variables of the ``.env``."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._path = Path(env["FIRSTOPEN_CONFIG"])
        self.env_path = self._path.parent / ENV_FILE

    def state(self) -> State:
        """Return what changes when a file is written or replaced. Blocks."""
        return tuple(_state(path) for path in (self._path, self.env_path))

    def read(self, *, keys_required: bool = True) -> Loaded:
        """Read and check the files; raises ``SettingsError``. Blocks."""
        state = self.state()
        try:
            variables = read_env_file(self.env_path)
        except BadEnvFile as exc:
            raise SettingsError(str(exc)) from exc
        content = read_file(self._env)
        settings = parse_file(content, {**variables, **self._env}, keys_required=keys_required)
        refuse_failing_tests(settings.apps)
        return Loaded(settings, blake2b(content, digest_size=6).hexdigest(), self, state)


def take_over(running: Settings, read: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings to put in force, and the names of those that need a restart first."""
    changed = {name: getattr(read, name) for name in RELOADED}
    return structs.replace(running, **changed), tuple(sorted(_waiting(running, read)))


def _waiting(running: Settings, read: Settings) -> list[str]:
    names = []
    for name in set(Settings.__struct_fields__) - RELOADED:
        before, after = getattr(running, name), getattr(read, name)
        if before == after:
            continue
        if isinstance(before, Struct):
            fields = before.__struct_fields__
            names += [f"{name}.{each}" for each in fields if getattr(before, each) != getattr(after, each)]
        else:
            names.append(_VARIABLES.get(name, f"FIRSTOPEN_{name.upper()}"))
    return names


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
