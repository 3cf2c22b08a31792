"""`firstopen sandbox`: run only the embedded Dub, for end-to-end tests of an app."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from service.cli.output import fail

if TYPE_CHECKING:
    from litestar import Litestar

    from service.sandbox.domains import SandboxDomain
    from service.sandbox.links import SandboxLink

STOP_S = 1  # a call that a fault stalls may never end


HELP = """\
Run an embedded Dub on a laptop or in a CI job, to test an app against.

It answers /track/open, /track/click, /track/visit, /track/lead(/client),
/track/sale(/client), /events and /links as Dub does; a GET on a link's domain is a click.
Any API key is accepted. Use it on loopback and in CI only: /sandbox/* needs no key.
Set an SDK's base URL to its address, or try it by hand:

\b
Links: from a file (--links links.toml), or added while it runs
  [[links]]
  domain = "acme.link"
  key = "fb-promo"
  url = "https://acme.com/product/123"
  ios = "https://apps.apple.com/app/id123"  # optional; so is android
  [[domains]]
  domain = "acme.link"
  deepView = true           # phones get the page that copies the link
  localDestinations = true  # show the destination, do not redirect

\b
  curl :8001/links -H 'Authorization: Bearer dub_x' -d '{"key": "hi",
    "domain": "acme.link", "url": "https://acme.com"}'
  curl -i :8001/hi -H 'Host: acme.link'     # a click, as a browser's

\b
Phones: calls from this machine can set the phone's address
  curl :8001/track/open -d '{"deepLink": "https://acme.link/hi"}' \\
    -A okhttp/4.12.0 -H 'X-Real-IP: 203.0.113.7' \\
    -H 'X-Vercel-IP-Country: DE'

\b
Control: /sandbox/* accepts JSON only, so that web pages cannot use it
  JSON='Content-Type: application/json'

\b
Time: let eight days pass, or set the time
  curl :8001/sandbox/clock -H "$JSON" -d '{"advanceS": 691200}'
  curl :8001/sandbox/clock -H "$JSON" -d '{"now": "2026-08-01T09:00:00Z"}'

\b
Faults: POST a fault to /sandbox/faults
  curl :8001/sandbox/faults -H "$JSON" \\
    -d '{"route": "/track/open", "status": 503}'
  or {"route": "/track/*", "delayMs": 2000, "probability": 0.2}
  or {"route": "/track/lead", "reset": "before", "handled": true}
  or {"route": "/events", "throttle": true, "retryAfterS": 5, "times": 3}
  Also "stall", "reset": "midBody", "html", "truncate", "trickleMs", and
  "method" and "host" to select calls. With "handled", the call takes
  effect and only the answer is lost. DELETE /sandbox/faults removes all.

\b
Dub's own slowness and limits: PATCH /sandbox/settings
  curl -X PATCH :8001/sandbox/settings -H "$JSON" \\
    -d '{"leadLookupDelayS": 3}'
  or {"eventsDelayS": 5}    events appear late
  or {"plan": "pro"}        403 and 429 as on that plan
  or {"usageExceeded": true}    /events is 403 until the month is over
  or {"allowedHostnames": ["acme.com"]}   403 for apps and other web pages

\b
Recorded calls (DELETE removes them)
  curl ':8001/sandbox/calls?path=/track/open'
"""


@click.command("sandbox", help=HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Another host name to answer for, such as a container's. May be repeated.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8001,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="SQLite file for all data.  [in memory only]",
)
@click.option(
    "--links",
    "links_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Links and domains to start with: TOML ([[links]], [[domains]]) or JSON (a list of links).",
)
@click.option(
    "--demo/--no-demo", default=True, show_default=True, help="Start with four links of acme.localhost."
)
def command(
    host: str, hosts: tuple[str, ...], port: int, data: Path | None, links_file: Path | None, *, demo: bool
) -> None:
    """Serve an embedded Dub until a signal stops it."""
    # Imported here, so that the other commands start without a web framework.
    from service.sandbox.app import create_sandbox
    from service.sandbox.demo import demo_domain, demo_links

    own_links, own_domains = _read_links(links_file) if links_file else ([], [])
    links = [*(demo_links() if demo else ()), *own_links]
    domains = [*([demo_domain()] if demo else ()), *own_domains]
    sock = _listen(host, port)
    _serve(create_sandbox(links, domains=domains, data=data, hosts=(host, *hosts)), sock, links)


def _read_links(path: Path) -> tuple[list["SandboxLink"], list["SandboxDomain"]]:
    """Read a file of links and domains; a mistake in it ends the process with an error that names it."""
    import msgspec

    from service.sandbox.domains import SandboxDomain
    from service.sandbox.links import SandboxLink

    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        body = decode(path.read_bytes())
        if not isinstance(body, dict):
            body = {"links": body}
        links = msgspec.convert(body.get("links", []), list[SandboxLink])
        return links, msgspec.convert(body.get("domains", []), list[SandboxDomain])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fail(f"{path}: {error}")


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; on failure, print one line and end the process."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}")


def _serve(app: "Litestar", sock: socket.socket, links: Sequence["SandboxLink"]) -> None:
    import uvicorn

    host, port = sock.getsockname()[:2]
    for line in _greeting(host, port, links):
        click.echo(line)
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=STOP_S,
    )
    uvicorn.Server(config).run(sockets=[sock])


def _greeting(host: str, port: int, links: Sequence["SandboxLink"]) -> list[str]:
    """Return the lines to print at the start: the address, the links, one command to paste."""
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    lines = [f"sandbox  {base}  an embedded Dub, for loopback and CI only; any API key is accepted"]
    if host not in {"127.0.0.1", "::1"}:
        lines.append("  warning: others can reach this address, and /sandbox/* needs no key")
    lines += [f"  {_address(link, port)} -> {link.url}" for link in links]
    deep_link = _address(links[0], port) if links else "https://acme.link/YOUR-LINK"
    body = f'{{"deepLink": "{deep_link}"}}'
    return [*lines, "Try it:", f"curl -s {base}/track/open -d '{body}'", ""]


def _address(link: "SandboxLink", port: int) -> str:
    if link.domain.endswith(".localhost"):
        return f"http://{link.domain}:{port}/{link.key}"
    return f"https://{link.domain}/{link.key}"
