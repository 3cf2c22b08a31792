"""Build the console, unless the settings turn it off. Imported only if they do not."""

from collections.abc import Sequence

from litestar import Router

from service.api.auth import AppKeys
from service.api.console.opens import opens_pages
from service.api.console.routes import console_router
from service.api.console.sessions import Sessions
from service.api.console.shell import Shell
from service.api.pages.rendering import Pages
from service.api.problems import Problems
from service.attribution.recent_opens import RecentOpens
from service.config.settings import Settings
from service.domain.device_identity import TrustedProxies
from service.domain.rates import Rate
from service.ratelimit.limiter import Limits
from service.wiring.parts import Clocks, Parts

_ATTEMPTS = Rate(10, 60)  # to log in, from one address: a person who mistypes, but no search for keys


def console(
    settings: Settings,
    keys: Sequence[AppKeys],
    proxies: TrustedProxies,
    pages: Pages,
    parts: Parts,
    timing: Clocks,
    problems: Problems,
) -> Router:
    """Build the console's routes on the service's parts."""
    attempts = Limits(
        per_address=(_ATTEMPTS,),
        per_key={},
        secret=settings.secrets[0].encode("utf-8", "surrogateescape"),
        unix_time=timing.unix_time,
        refused=parts.metrics.rate_limited,
    )
    sessions = Sessions(keys, settings.secrets, timing.unix_time)
    shell = Shell(pages, sessions, attempts, proxies, timing.unix_time)
    stores = parts.stores
    pages_of_console = [*opens_pages(shell, RecentOpens(stores.opens), parts.resolver, stores.outbox)]
    return console_router(shell, problems, pages_of_console)
