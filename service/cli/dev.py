"""``firstopen dev``: the service and an embedded Dub, for a simulator or a phone on the same network."""

import io
import os
import socket
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from service.cli.output import fail
from service.config import demo
from service.config.dev import dev_links, dev_settings, local_domains
from service.config.settings import Settings, SettingsError
from service.server.run import PortTaken
from service.storage.errors import StartRefused

if TYPE_CHECKING:
    from service.sandbox.domains import SandboxDomain
    from service.sandbox.links import SandboxLink

_LOOPBACK = "127.0.0.1"

HELP = """\
Run firstopen and an embedded Dub, to test an app on a simulator or a phone.

\b
  firstopen dev                           the demo, for simulators on this machine
  firstopen dev --lan                     also for phones on the same network
  firstopen dev --lan --config app.toml   your own apps, with a link for each of their routes

Nothing is sent to Dub. Phones are matched by their private addresses, which firstopen serve never does, so
a first launch can be tested as it happens: open a link in the phone's browser, then open the app. With
--lan, the terminal shows a QR code of a link. Data is kept in var/dev (FIRSTOPEN_DATA_DIR).

With --lan, anybody on this network can reach both servers, and the embedded Dub asks for no key: use a
network that you trust.
"""


@click.command("dev", help=HELP)
@click.option("--lan", is_flag=True, help="Listen on all addresses, for phones on the same network.")
@click.option("--address", metavar="ADDRESS", help="This machine's address on that network.  [detected]")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Your firstopen.toml.  [the demo's app]",
)
@click.option("--port", type=click.IntRange(1, 65_534), help="Port; the embedded Dub has the next.  [8000]")
def command(address: str | None, config: Path | None, port: int | None, *, lan: bool) -> None:
    """Read the settings, print what to do with the phone, and serve."""
    from service.cli.serve import serve_beside_sandbox

    env = {**os.environ, **({"FIRSTOPEN_PORT": str(port)} if port else {})}
    reached_at = _address(address) if lan else _LOOPBACK
    host = "0.0.0.0" if lan else _LOOPBACK  # noqa: S104  the user asked for it
    try:
        configured = dev_settings(env, host=host, address=reached_at, config=config)
        links, domains = _sandbox_of(configured, is_demo=config is None)
        greeting = _greeting(configured, links, reached_at, lan=lan)
        serve_beside_sandbox(configured, links, domains, lambda: greeting, host=host)
    except (SettingsError, PortTaken, StartRefused) as exc:
        fail(exc)


def _sandbox_of(configured: Settings, *, is_demo: bool) -> tuple[list["SandboxLink"], list["SandboxDomain"]]:
    """Return the links and domains of the embedded Dub, on the local domains of every app."""
    from service.sandbox.demo import demo_domain, demo_links
    from service.sandbox.domains import SandboxDomain
    from service.sandbox.links import SandboxLink

    if is_demo:
        local = local_domains(next(iter(configured.apps.values())).domains)
        links = [
            SandboxLink(domain=domain, key=link.key, url=link.url, ios=link.ios, android=link.android)
            for domain in local
            for link in demo_links()
        ]
    else:
        links = [
            SandboxLink(domain=link.domain, key=link.key, url=link.url) for link in dev_links(configured)
        ]
    names = {domain for app in configured.apps.values() for domain in local_domains(app.domains)}
    files = demo_domain() if is_demo else None
    domains = [
        SandboxDomain(
            domain=name,
            deep_view=True,
            local_destinations=True,
            apple_app_site_association=None if files is None else files.apple_app_site_association,
            asset_links=None if files is None else files.asset_links,
        )
        for name in sorted(names)
    ]
    return links, domains


def _greeting(configured: Settings, links: list["SandboxLink"], address: str, *, lan: bool) -> list[str]:
    port, sandbox_port = configured.port, demo.sandbox_port(configured.port)
    base = f"http://{address}:{port}"
    key = next(iter(configured.apps.values())).publishable_keys[0]
    lines = [
        f"firstopen dev for {', '.join(configured.apps)}: nothing is sent to Dub",
        f"  base URL in the app    {base}   publishable key {key}",
        f"  iOS simulator          http://127.0.0.1:{port}",
        f"  Android, by cable      adb reverse tcp:{port} tcp:{port}",
        f"                         adb reverse tcp:{sandbox_port} tcp:{sandbox_port}",
        f"  Expo                   EXPO_PUBLIC_FIRSTOPEN_URL={base} npx expo start",
        "  links, for the browser of the phone or simulator:",
        *(f"    http://{link.domain}:{sandbox_port}/{link.key} -> {link.url}" for link in links),
    ]
    if not lan:
        return [*lines, "For a phone on this network: firstopen dev --lan"]
    first = next((link for link in links if link.domain == address), None)
    if first is not None:
        url = f"http://{address}:{sandbox_port}/{first.key}"
        lines += [f"Scan it with the phone, then open the app: {url}", _qr_code(url)]
    return [*lines, "Anybody on this network can reach this machine now: stop it afterwards."]


def _qr_code(url: str) -> str:
    """Return a QR code of block characters, two rows in one line."""
    import segno

    text = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(text, compact=True)
    return text.getvalue().rstrip("\n")


def _address(given: str | None) -> str:
    """Return this machine's IPv4 address on the local network; end the process if there is none."""
    if given is not None:
        try:
            return str(IPv4Address(given))
        except ValueError:
            fail("--address: expected an IPv4 address such as 192.168.1.20")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: the system chooses the address it would use
            found = str(probe.getsockname()[0])
        except OSError:
            found = _LOOPBACK
    if ip_address(found).is_loopback:
        fail("no network was found: name this machine's address with --address 192.168.1.20")
    return found
