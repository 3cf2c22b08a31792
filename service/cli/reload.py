"""``firstopen reload``: check the configuration, and wait until the running service has read it."""

import time
import urllib.error
import urllib.request

import msgspec
import rich_click as click

from service.cli.output import NOT_USABLE_YET, base_url, fail
from service.config import settings
from service.config.files import ConfigFiles
from service.config.settings import SettingsError
from service.domain.health import ConfigStatus

_WAIT_S = 10.0
_ASK_EVERY_S = 0.1
_TIMEOUT_S = 5.0
_UNUSED = "unused: this command hashes and decrypts nothing"


class _Ready(msgspec.Struct):
    """What is read of /health/ready."""

    config: ConfigStatus | None = None


@click.command("reload")
@click.option("--url", help="The service to ask.  [FIRSTOPEN_HOST and FIRSTOPEN_PORT]")
def command(url: str | None) -> None:
    """Check firstopen.toml, and wait until the service uses it.

    A running service reads the file again within two seconds after it has changed. This command checks the
    file first, and then asks the service (GET /health/ready) what it has read. Exit code 0: the file is in
    force; 1: the service has not read it, or refuses it; 2: the file is invalid.
    """
    began = time.time()
    try:
        env = settings.environment()
        if not env.get("FIRSTOPEN_CONFIG"):
            fail("FIRSTOPEN_CONFIG is not set: the demo reads no file")
        read = ConfigFiles({"FIRSTOPEN_SECRET": _UNUSED, **env}).read(keys_required=False)
    except SettingsError as exc:
        fail(f"{exc}\nThe service keeps the settings that it has.")
    base = url.rstrip("/") if url else base_url(read.settings)
    status = _read_since(base, began)
    if status.rejected is not None:
        fail(f"{base} refuses the file: {status.rejected}", NOT_USABLE_YET)
    if status.revision != read.revision:
        ours = f"{env['FIRSTOPEN_CONFIG']} is revision {read.revision}"
        fail(f"{base} uses another file: revision {status.revision}; {ours}", NOT_USABLE_YET)
    click.echo(f"{base} uses {env['FIRSTOPEN_CONFIG']}, revision {status.revision}")
    for name in status.waiting_for_restart:
        click.echo(f"needs a restart: {name}")


def _read_since(base: str, began: float) -> ConfigStatus:
    """Return the status of the service as soon as it has read what was on the disk at ``began``."""
    deadline = time.monotonic() + _WAIT_S
    while (status := _ask(base)).checked_at < began:
        if time.monotonic() > deadline:
            fail(f"{base} has not read the file within {_WAIT_S:.0f} s", NOT_USABLE_YET)
        time.sleep(_ASK_EVERY_S)
    return status


def _ask(base: str) -> ConfigStatus:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{base}/health/ready", timeout=_TIMEOUT_S) as reply:
            status = msgspec.json.decode(reply.read(), type=_Ready).config
    except urllib.error.HTTPError as exc:
        fail(f"{base} answered {exc.code}", NOT_USABLE_YET)
    except (OSError, ValueError, msgspec.DecodeError):
        fail(f"no firstopen answers at {base}", NOT_USABLE_YET)
    if status is None:
        fail(f"{base} reads no file: it is the demo", NOT_USABLE_YET)
    return status
