"""``firstopen open``: how an open would be answered, and why, asked of the service that is running."""

import urllib.error
import urllib.request
from typing import Any, NoReturn

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table

from service import demo, settings
from service.settings import Settings, SettingsError

_TIMEOUT_S = 15
_PIPED_COLUMNS = 160


def explain_open(body: dict[str, Any], app_name: str | None) -> None:
    """Ask for a dry run, and print it; ends the command with a clear word where that cannot be had."""
    try:
        configured = settings.of_commands(demo.settings)
    except SettingsError as exc:
        _stop(str(exc))
    name = app_name or next(iter(configured.apps))
    if name not in configured.apps:
        _stop(f"--app: no app {name!r}; there are: {', '.join(configured.apps)}")
    keys = configured.server_keys.get(name)
    if not keys:
        _stop(f"apps.{name}.server_keys_env: a dry run takes a server key, and none is set")
    given = {field: value for field, value in body.items() if value is not None}
    if not given.keys() & {"deepLink", "installReferrer", "clipboard", "dubDomain"}:
        given["dubDomain"] = configured.apps[name].domains[0]
    _print(_ask(_base(configured), keys[0], given))


def _base(configured: Settings) -> str:
    host = configured.host if configured.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  asked, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{configured.port}"


def _ask(base: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  http, to our own address
        f"{base}/v1/opens/dry-run",
        data=msgspec.json.encode(body),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as reply:
            return msgspec.json.decode(reply.read(), type=dict[str, Any])
    except urllib.error.HTTPError as exc:
        try:
            _stop(msgspec.json.decode(exc.read())["error"]["message"])
        except (msgspec.DecodeError, LookupError, TypeError):
            _stop(f"{base} answered {exc.code}, and not as firstopen does")
    except (OSError, msgspec.DecodeError):
        _stop(f"no firstopen answers at {base} (start one: firstopen serve)")


def _print(reply: dict[str, Any]) -> None:
    answer, trace = reply["answer"], reply["trace"]
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_PIPED_COLUMNS)
    table = Table("evidence", "outcome", "detail", "ms")
    for rung in trace["rungs"]:
        table.add_row(rung["evidence"], rung["outcome"], rung["detail"], str(rung["tookMs"]))
    console.print(table)
    if trace["candidates"]:
        clicks = Table("click", "link", "age", "why not")
        for each in trace["candidates"]:
            clicks.add_row(each["clickId"], each["link"], f"{each['ageS']} s", each["rejected"] or "")
        console.print(clicks)
    route, match = answer["route"], answer["match"]
    sure = "guaranteed" if match["guaranteed"] else f"confidence {match.get('confidence', 0)}"
    console.print(f"match   {match['type']} ({match.get('reason') or sure})")
    console.print(f"screen  {route['screen']} {route['params'] or ''} ({route['reason']})")
    console.print(f"url     {route['url'] or 'none'}")


def _stop(message: str) -> NoReturn:
    click.echo(f"firstopen: {message}", err=True)
    raise SystemExit(2)
