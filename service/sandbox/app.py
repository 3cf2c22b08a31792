"""Build the sandbox from its components.

The sandbox is for loopback and CI. It trusts `X-Real-IP` from loopback, and any client of `/sandbox/*` may
move its clock and make it fail. Never expose it to a network that is not part of the test.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from litestar import Litestar
from litestar.exceptions import HTTPException

from service.sandbox.calls import CallLog
from service.sandbox.clicks import ClickLog
from service.sandbox.clock import SandboxClock
from service.sandbox.control import control_routes
from service.sandbox.domains import DomainBook, SandboxDomain
from service.sandbox.errors import DubError, on_error
from service.sandbox.events import event_routes
from service.sandbox.faults import FaultBook, Sleep
from service.sandbox.front import Front
from service.sandbox.leads import lead_routes
from service.sandbox.limits import Gate, SandboxSettings
from service.sandbox.link_routes import link_routes
from service.sandbox.links import LinkBook, SandboxLink
from service.sandbox.opens import open_routes
from service.sandbox.page_routes import page_routes
from service.sandbox.people import People
from service.sandbox.redirect import Redirector
from service.sandbox.sales import sale_routes
from service.sandbox.store import Store


def create_sandbox(
    links: Sequence[SandboxLink] = (),
    *,
    domains: Sequence[SandboxDomain] = (),
    data: Path | None = None,
    api_keys: Sequence[str] = (),
    publishable_keys: Sequence[str] = (),
    hosts: Sequence[str] = (),
    clock: Callable[[], float] = time.time,
    sleep: Sleep = asyncio.sleep,
    settings: SandboxSettings | None = None,
) -> Litestar:
    """Build an embedded Dub as an ASGI application.

    `links` and `domains` are added, or updated if the file `data` contains them. A domain that appears only
    in links is not configured. Without `api_keys` or `publishable_keys`, any key is accepted where Dub
    requires one. `hosts` are host names to answer for besides IP addresses, `localhost`, `*.localhost`,
    `api.dub.co` and the links' domains; any other `Host` gets a 403.

    `clock` returns Unix time in seconds; `sleep` waits for a fault's delay. Serve it with uvicorn's
    `proxy_headers=False`, so that the peer address is that of the connection. Lifespan events are optional:
    they only close the file. Raises sqlite3.Error if `data` cannot be opened.
    """
    own_settings = msgspec.structs.replace(settings) if settings else SandboxSettings()
    now = SandboxClock(clock)
    store = Store(data)
    domain_book = DomainBook(store)
    for spec in domains:
        domain_book.put(spec)
    book = LinkBook(store, now, domain_book, own_settings.case_sensitive_domains)
    book.seed(links)
    clicks = ClickLog(store, now)
    people = People(store, now, own_settings)
    gate = Gate(now, own_settings, api_keys, publishable_keys)
    calls = CallLog(now)
    faults = FaultBook(now, sleep)
    app = Litestar(
        route_handlers=[
            *open_routes(book, clicks, own_settings),
            *page_routes(gate, book, clicks),
            *lead_routes(gate, people, book),
            *sale_routes(gate, people, book),
            *event_routes(gate, store, book, now, own_settings),
            *link_routes(gate, book, domain_book),
            *control_routes(now, calls, faults, own_settings, domain_book),
        ],
        exception_handlers={DubError: on_error, HTTPException: on_error, Exception: on_error},
        on_shutdown=[store.close],
        openapi_config=None,
        logging_config=None,
    )
    redirector = Redirector(book, domain_book, clicks, now)
    app.asgi_handler = Front(app.asgi_handler, redirector, domain_book, calls, faults, hosts=hosts)
    return app
