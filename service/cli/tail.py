"""``firstopen tail``: print opens as they come."""

import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, get_args

import msgspec
import rich_click as click

from service.cli.output import NOT_USABLE_YET, base_url, fail, pick_app, read_settings, server_key
from service.domain.models import MatchType
from service.domain.routing import Reason

_SILENCE_MAX_S = 40  # the service sends a heartbeat every 15 seconds
_PAUSE_MIN_S, _PAUSE_MAX_S = 1.0, 10.0
_REMEMBERED = 1000
_INTERRUPTED = 130
_KNOWN = frozenset({401, 403, 404, 422, 429})  # a reconnection would not help

HELP = """\
Print opens as they come, of all replicas, within a second of their answers. Contains no personal data.

\b
  firstopen tail
  firstopen tail --type ip --outcome matched
  firstopen tail --test-device k7qf-m2xd
  firstopen tail --json | jq -r .screen
  ACME_SERVER_KEYS=... firstopen tail --url https://firstopen.internal

Each line is a time (UTC), the screen and why, the kind of match, the link, and what is special: the app's
version, "pending" while the answer may improve, the test session, "again" if a test device repeats its open.
An open that was pending is printed again when it is settled.

Asks the service that runs with this configuration, with the app's first server key; --url names another one.
A lost connection is made again, without a gap of up to ten minutes. Exit code 1: there is no service.
"""


@click.command("tail", help=HELP)
@click.option("--app", "app_name", metavar="NAME", help="The app.  [the first]")
@click.option("--type", "match", type=click.Choice(get_args(MatchType)), help="Only matches of this type.")
@click.option("--outcome", type=click.Choice(get_args(Reason)), help="Only routes with this reason.")
@click.option(
    "--test-device", metavar="NAME", help="Only opens of this test session, or of all of them with 'any'."
)
@click.option("--json", "as_json", is_flag=True, help="Print each open as a line of JSON.")
@click.option("--url", metavar="URL", help="Where the service is.  [on this machine, by the configuration]")
def command(
    app_name: str | None,
    match: str | None,
    outcome: str | None,
    test_device: str | None,
    *,
    as_json: bool,
    url: str | None,
) -> None:
    """Run ``firstopen tail``."""
    configured = read_settings()
    name = pick_app(configured, app_name or next(iter(configured.apps)))
    wanted = {"match": match, "outcome": outcome, "testDevice": test_device}
    query = urllib.parse.urlencode({field: value for field, value in wanted.items() if value})
    base = (url or base_url(configured)).rstrip("/")
    if not base.startswith(("http://", "https://")):
        fail("--url: expected http:// or https://")
    opens = Opens(
        f"{base}/v1/opens/live?{query}",
        base,
        server_key(configured, name, "firstopen tail"),
        is_ours=url is None,
    )
    try:
        for event, data in opens:
            if event == "skipped":
                click.echo(f"({data['skipped']} more opens came: filter them)", err=True)
            else:
                click.echo(msgspec.json.encode(data) if as_json else line_of(data))
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


class Opens:
    """The opens that a service sends. Connects again when the connection is lost."""

    def __init__(self, url: str, base: str, key: str, *, is_ours: bool) -> None:
        self._url = url
        self._base = base
        self._key = key
        handlers = [urllib.request.ProxyHandler({})] if is_ours else []
        self._opener = urllib.request.build_opener(*handlers)
        self._last_id = ""
        self._printed: deque[tuple[object, ...]] = deque(maxlen=_REMEMBERED)
        self._was_connected = False

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield events with their data; ends the process if the first connection cannot be made."""
        pause_s = _PAUSE_MIN_S
        while True:
            try:
                for event, data in self._connected():
                    pause_s = _PAUSE_MIN_S
                    if event == "skipped" or self._is_new(data):
                        yield event, data
            except (OSError, HTTPException) as exc:
                self._give_up(exc)
            click.echo(f"firstopen: connection to {self._base} lost; connecting again", err=True)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    def _connected(self) -> Iterator[tuple[str, dict[str, Any]]]:
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "text/event-stream"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310  checked: http or https
        with self._opener.open(request, timeout=_SILENCE_MAX_S) as reply:
            self._was_connected = True
            name, data = "", ""
            for raw in reply:
                field, _, value = raw.decode().rstrip("\r\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data = value
                elif field == "id":
                    self._last_id = value
                elif not field and name:
                    yield name, msgspec.json.decode(data, type=dict[str, Any])
                    name = ""

    def _is_new(self, data: dict[str, Any]) -> bool:
        """Return False for an open that was printed like this before the connection was lost."""
        seen = (data["openId"], data["pending"], data["clickId"], data["repeatedAt"])
        if seen in self._printed:
            return False
        self._printed.append(seen)
        return True

    def _give_up(self, exc: Exception) -> None:
        """End the process after a failure that will not pass by itself."""
        if isinstance(exc, urllib.error.HTTPError):
            if exc.code in _KNOWN and not (exc.code == 429 and self._was_connected):  # noqa: PLR2004  a status
                fail(_message(exc) or f"{self._base} answered {exc.code}, but is not firstopen")
        elif not self._was_connected:
            fail(f"no firstopen answers at {self._base} (start one: firstopen serve)", NOT_USABLE_YET)


def line_of(data: dict[str, Any]) -> str:
    """Return an open as a line for people."""
    link = f"{data['linkDomain']}/{data['linkKey']}" if data["linkKey"] else "-"
    match = data["matchType"]
    if data["confidence"] is not None:
        match += f" {data['confidence']:.2f}"
    elif data["reason"]:
        match += f" ({data['reason']})"
    notes = [
        f"v{data['appVersion']}" if data["appVersion"] else "",
        "pending" if data["pending"] else "",
        f"test {data['testDevice']}" if data["testDevice"] else "",
        "again" if data["repeatedAt"] else "",
    ]
    at = (data["repeatedAt"] or data["openedAt"])[11:23]
    columns = f"{at}  {data['screen']:<14} {data['outcome']:<15} {match:<24} {link:<28} "
    return (columns + "  ".join(filter(None, notes))).rstrip()


def _message(exc: urllib.error.HTTPError) -> str:
    """Return the message of an error of firstopen; empty for another server's."""
    try:
        message: str = msgspec.json.decode(exc.read())["error"]["message"]
    except (msgspec.DecodeError, LookupError, TypeError):
        return ""
    return message
