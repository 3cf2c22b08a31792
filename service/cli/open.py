"""``firstopen open``: ask the running service how it would answer an open, and why."""

import urllib.error
import urllib.request
from typing import Any

import msgspec
import rich_click as click
from rich.table import Table

from service.cli.output import base_url, console, fail, pick_app, read_settings, server_key

_TIMEOUT_S = 15


HELP = """\
Ask the running service how an open would be answered, and why. Nothing is recorded or claimed.

\b
  firstopen open https://acme.link/fb-promo
  firstopen open --ip 203.0.113.7 --platform ios
  firstopen open --install-referrer 'deepLink=https%3A%2F%2Facme.link%2Ffb-promo'
"""


@click.command("open", help=HELP)
@click.argument("url", required=False)
@click.option("--install-referrer", metavar="TEXT", help="Text of the Play Install Referrer.")
@click.option("--clipboard", metavar="TEXT", help="Text in the clipboard.")
@click.option("--domain", metavar="DOMAIN", help="One of the app's domains.  [its first]")
@click.option("--install-id", metavar="ID", help="The install that opens.  [an unknown one]")
@click.option("--ip", metavar="ADDRESS", help="The device's address.")
@click.option("--user-agent", metavar="TEXT", help="The device's User-Agent.")
@click.option(
    "--platform",
    type=click.Choice(["ios", "android"]),
    help="The device's platform.  [read from the User-Agent]",
)
@click.option("--app-version", metavar="VERSION", help="The build that opens, such as 2.1.")
@click.option("--test-device", metavar="NAME", help="The name of a test session.")
@click.option("--app", "app_name", metavar="NAME", help="The app.  [the first]")
def command(
    url: str | None, install_referrer: str | None, app_name: str | None, **fields: str | None
) -> None:
    """Run ``firstopen open``."""
    names = {
        "domain": "dubDomain",
        "install_id": "installId",
        "user_agent": "userAgent",
        "app_version": "appVersion",
        "test_device": "testDevice",
    }
    body = {names.get(name, name): value for name, value in fields.items()}
    explain_open({"deepLink": url, "installReferrer": install_referrer, **body}, app_name)


def explain_open(body: dict[str, Any], app_name: str | None) -> None:
    """Request a dry run and print the result; on failure, print one line and end the command."""
    configured = read_settings()
    name = pick_app(configured, app_name or next(iter(configured.apps)))
    key = server_key(configured, name, "a dry run")
    given = {field: value for field, value in body.items() if value is not None}
    if not given.keys() & {"deepLink", "installReferrer", "clipboard", "dubDomain"}:
        given["dubDomain"] = configured.apps[name].domains[0]
    _print(_ask(base_url(configured), key, given))


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
            fail(msgspec.json.decode(exc.read())["error"]["message"])
        except (msgspec.DecodeError, LookupError, TypeError):
            fail(f"{base} answered {exc.code}, but is not firstopen")
    except (OSError, msgspec.DecodeError):
        fail(f"no firstopen answers at {base} (start one: firstopen serve)")


def _print(reply: dict[str, Any]) -> None:
    answer, trace = reply["answer"], reply["trace"]
    out = console()
    table = Table("evidence", "outcome", "detail", "ms")
    for item in trace["evidence"]:
        table.add_row(item["type"], item["outcome"], item["detail"], str(item["tookMs"]))
    out.print(table)
    if trace["candidates"]:
        clicks = Table("click", "link", "age", "why not")
        for each in trace["candidates"]:
            clicks.add_row(each["clickId"], each["link"], f"{each['ageS']} s", each["rejected"] or "")
        out.print(clicks)
    route, match = answer["route"], answer["match"]
    sure = "guaranteed" if match["guaranteed"] else f"confidence {match.get('confidence', 0)}"
    out.print(f"match   {match['type']} ({match.get('reason') or sure})")
    out.print(f"screen  {route['screen']} {route['params'] or ''} ({route['reason']})")
    out.print(f"url     {route['url'] or 'none'}")
