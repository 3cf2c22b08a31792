"""Settings of ``firstopen dev``: the demo's apps, or those of a file, against an embedded Dub.

Devices on the local network are matched by their private addresses; ``serve`` never does that.

What can go wrong: an app's own links lead to the internet and not to the embedded Dub (each app gets a domain
that leads here); the data of a real installation is changed (there is a data directory of its own); a secret
of the real installation is used (there is one that is not secret).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from service.config import demo
from service.config.route_checks import sample_url
from service.config.settings import AppSettings, Settings, SettingsError, compile_router, parse

DATA_DIR = "var/dev"
DUB_API_KEY = "dub_sandbox"

_SECRET = "the secret of firstopen dev is known to everybody"  # noqa: S105  of no data worth keeping


class DevLink(Struct, frozen=True):
    """A link of the embedded Dub."""

    domain: str
    key: str
    url: str


def dev_settings(env: Mapping[str, str], *, host: str, address: str, config: Path | None) -> Settings:
    """Return settings to listen on ``host``; raises ``SettingsError``.

    Links on ``address``, as other devices reach this machine, belong to the first app.
    """
    text = demo.CONFIG if config is None else _text_of(config)
    own = {
        "FIRSTOPEN_HOST": host,
        "FIRSTOPEN_SECRET": _SECRET,
        "FIRSTOPEN_DATA_DIR": env.get("FIRSTOPEN_DATA_DIR") or DATA_DIR,
        "FIRSTOPEN_DATABASE_URL": "",
    }
    found = parse(text, {**env, **own}, name=str(config or "the demo's settings"), keys_required=False)
    sandbox_port = demo.sandbox_port(found.port)
    apps = {
        name: _with_local_domains(name, app, address if index == 0 else None)
        for index, (name, app) in enumerate(found.apps.items())
    }
    return msgspec.structs.replace(
        found,
        apps=apps,
        server_keys={name: found.server_keys.get(name) or (server_key(name),) for name in apps},
        dub_api_keys=dict.fromkeys(apps, DUB_API_KEY),
        dub_base_url=f"http://localhost:{sandbox_port}",
        private_networks=True,
        demo=True,
    )


def server_key(app: str) -> str:
    """Return the server key of an app whose file names none."""
    return demo.SERVER_KEY if app == "acme" else f"dub_dev_{app}"


def dev_links(settings: Settings) -> list[DevLink]:
    """Return a link for each route of each app that a web link can reach, on each of the local domains."""
    links: list[DevLink] = []
    for name, app in settings.apps.items():
        router = compile_router(name, app)
        taken: set[str] = set()
        for route in router.routes:
            url = sample_url(router, route)
            if url is None or not url.startswith(("https://", "http://")):
                continue
            key = _free_key(app.routes[route.index].screen, taken)
            links += [DevLink(domain, key, url) for domain in local_domains(app.domains)]
    return links


def local_domains(domains: Sequence[str]) -> list[str]:
    """Return the domains that lead to this machine: addresses, and names that end in ``.localhost``."""
    return [name for name in domains if name.endswith(".localhost") or name.replace(".", "").isdigit()]


def _with_local_domains(name: str, app: AppSettings, address: str | None) -> AppSettings:
    label = name.lower().replace("_", "-")
    local = [each for each in (address, f"{label}.localhost") if each is not None]
    others = [domain for domain in app.domains if domain not in local]
    return msgspec.structs.replace(app, domains=(*local, *others))


def _free_key(screen: str, taken: set[str]) -> str:
    base = "".join(char if char.isalnum() else "-" for char in screen.lower()).strip("-") or "link"
    key, number = base, 1
    while key in taken:
        number += 1
        key = f"{base}-{number}"
    taken.add(key)
    return key


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"--config: cannot read {path}: {exc}") from exc
