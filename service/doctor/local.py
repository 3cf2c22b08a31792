"""Checks of this machine: configuration, secret, database with its durability, and the service itself."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import msgspec

from service.config.env_file import ENV_FILE, is_readable_by_others
from service.config.route_checks import refuse_failing_tests
from service.config.settings import Settings, SettingsError
from service.doctor.checks import Check, fail, ok, warn
from service.doctor.network import fetch
from service.storage.engines.port import Engine
from service.storage.engines.sqlite import FILE
from service.storage.errors import EngineUnavailable, SchemaTooNew, StartRefused
from service.storage.import_v3 import is_old_file
from service.storage.migrate import LATEST, applied, pending
from service.storage.statements import Statement
from service.wiring.stores import engine, secret_check

_MIB = 1024 * 1024
_SPACE_WARN_MIB, _SPACE_FAIL_MIB = 1024, 100
_CLOCKS_DIFFER_S = 5
_SLOW_MS = 50  # an open waits for no longer
# File systems on which SQLite's locks or its shared memory do not work.
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs"})
# Settings of PostgreSQL that a commit needs, to survive a crash.
_DURABLE: Mapping[str, frozenset[str]] = {
    "fsync": frozenset({"on"}),
    "full_page_writes": frozenset({"on"}),
    "synchronous_commit": frozenset({"on", "remote_apply", "remote_write", "local"}),
}


def settings_checks(settings: Settings, env: Mapping[str, str]) -> list[Check]:
    """Check the configuration that was read: route tests, the ``.env``, and the secret's length."""
    apps = ", ".join(settings.apps)
    if settings.demo:
        return [
            warn(
                "configuration",
                "the demo: FIRSTOPEN_CONFIG is not set",
                "firstopen init writes a firstopen.toml",
            )
        ]
    checks = []
    try:
        refuse_failing_tests(settings.apps)
        checks.append(ok("configuration", f"{env['FIRSTOPEN_CONFIG']}: {apps}; every route test passes"))
    except SettingsError as exc:
        checks.append(fail("configuration", str(exc), "firstopen routes shows where each URL lands"))
    checks += [
        warn("configuration", f"{setting} has no effect any more", f"delete it; {successor} took its place")
        for setting, successor in settings.deprecated
    ]
    env_path = Path(env["FIRSTOPEN_CONFIG"]).parent / ENV_FILE
    if is_readable_by_others(env_path):
        checks.append(warn("secrets", f"others can read {env_path}", f"chmod 600 {env_path}"))
    for name, app in settings.apps.items():
        if not settings.server_keys.get(name):
            checks.append(
                warn(
                    f"{name}: server key",
                    "traces, dry runs, exports and the console need one",
                    f"set apps.{name}.server_keys_env" if app.server_keys_env is None else "",
                )
            )
    return checks


async def database_checks(settings: Settings) -> list[Check]:
    """Check that the database can be used, and that a commit survives a crash."""
    if not settings.database_url:
        checks = _disk_checks(settings.data_dir)
        if is_old_file(settings.data_dir) or not (settings.data_dir / FILE).is_file():
            return [
                *checks,
                ok("database", f"SQLite in {settings.data_dir}: firstopen serve creates the file"),
            ]
    else:
        checks = []
    try:
        database = engine(settings, exclusive=False)
    except SettingsError as exc:
        return [fail("database", str(exc), "postgresql://user@host/database")]
    try:
        return [*checks, *await _state_checks(settings, database)]
    except SchemaTooNew as exc:
        return [*checks, fail("database", str(exc), "run the newer version of firstopen")]
    except (EngineUnavailable, StartRefused) as exc:
        return [
            *checks,
            fail("database", str(exc), "opens are answered meanwhile; leads get 503 until it can be reached"),
        ]
    finally:
        await database.close()


async def _state_checks(settings: Settings, database: Engine) -> list[Check]:
    known = await applied(database)
    missing = pending(known)
    if missing:
        detail = f"{database.place}: lacks {len(missing)} migrations up to {LATEST}"
        checks = [warn("database", detail, "firstopen db migrate, or the next firstopen serve, applies them")]
    else:
        checks = [ok("database", f"{database.place}: schema {LATEST}")]
    unlisted = [] if missing else await secret_check(settings).missing(database)
    if unlisted:
        checks.append(
            fail(
                "secret",
                f"FIRSTOPEN_SECRET does not list {', '.join(each.fingerprint for each in unlisted)}",
                "list the earlier secret after the current one: FIRSTOPEN_SECRET=current,older",
            )
        )
    elif not missing:
        checks.append(ok("secret", "FIRSTOPEN_SECRET lists every secret that stored data may need"))
    if settings.database_url:
        checks += await _postgres_checks(database)
    return checks


async def _postgres_checks(database: Engine) -> list[Check]:
    names = (*_DURABLE, "default_transaction_read_only")
    columns = ", ".join(f"current_setting('{name}')" for name in names)
    began = time.monotonic()
    await database.fetch([Statement("SELECT 1")])
    took_ms = (time.monotonic() - began) * 1000
    ((row,),) = await database.fetch([Statement(f"SELECT {columns}, pg_is_in_recovery(), {{now_ms}}")])
    values, (in_recovery, now_ms) = dict(zip(names, row, strict=False)), row[-2:]
    checks = [_durability_check(values, is_standby=bool(in_recovery))]
    if took_ms > _SLOW_MS:
        checks.append(
            warn("database latency", f"{took_ms:.0f} ms for one query", "run firstopen near the database")
        )
    differ_s = abs(now_ms / 1000 - time.time())
    if differ_s > _CLOCKS_DIFFER_S:
        checks.append(warn("database clock", f"{differ_s:.0f} s from this machine's", "set the clocks (NTP)"))
    return checks


def _durability_check(values: Mapping[str, str], *, is_standby: bool) -> Check:
    name = "durability"
    if is_standby or values["default_transaction_read_only"] == "on":
        return fail(name, "the database is read-only (a standby?)", "list the writable host in the URL, too")
    lax = [
        f"{setting} = {values[setting]}" for setting, safe in _DURABLE.items() if values[setting] not in safe
    ]
    if lax:
        return fail(name, ", ".join(lax), "acknowledged leads can be lost in a crash: set each to on")
    return ok(name, "commits survive a crash: fsync, full_page_writes and synchronous_commit are on")


def _disk_checks(folder: Path) -> list[Check]:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free // _MIB
    checks = []
    if free < _SPACE_FAIL_MIB:
        checks.append(
            fail("disk", f"{free:,} MiB left for {folder}", "free some: leads get 503 on a full disk")
        )
    elif free < _SPACE_WARN_MIB:
        checks.append(warn("disk", f"{free:,} MiB left for {folder}", "one million opens take some 600 MB"))
    else:
        checks.append(ok("disk", f"{free:,} MiB left for {folder}"))
    kind = _file_system(existing)
    if kind in _NETWORK_FILE_SYSTEMS:
        checks.append(
            fail(
                "durability",
                f"{folder} is on {kind}",
                "SQLite needs a local disk; for several machines use PostgreSQL",
            )
        )
    elif os.path.ismount(existing) and kind == "tmpfs":
        checks.append(
            fail("durability", f"{folder} is in memory (tmpfs)", "set FIRSTOPEN_DATA_DIR to a disk")
        )
    return checks


def _file_system(path: Path) -> str:
    """Return the type of the file system of a path, or "" where the system does not say."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = [line.split()[1:3] for line in lines]
    resolved = str(path.resolve())
    within = [(point, kind) for point, kind in mounts if Path(resolved).is_relative_to(point)]
    return max(within, key=lambda each: len(each[0]))[1] if within else ""


async def service_checks(settings: Settings, http: httpx.AsyncClient) -> list[Check]:
    """Ask the service on this machine whether it is ready, and what does not work."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  compared
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    reply = await fetch(http, f"{base}/health/ready")
    if reply.problem:
        return [warn("service", f"nothing answers at {base}", "start it: firstopen serve")]
    try:
        degraded: Sequence[str] = msgspec.json.decode(reply.body).get("degraded", [])
    except (msgspec.DecodeError, AttributeError):
        return [fail("service", f"{base} is not firstopen", "set FIRSTOPEN_PORT to a free port")]
    if reply.status != httpx.codes.OK:
        return [warn("service", f"{base} answers {reply.status}: it is stopping", "")]
    if degraded:
        return [warn("service", f"{base} is ready, but: {'; '.join(degraded)}", "see the other checks")]
    return [ok("service", f"{base} is ready, and everything works")]
