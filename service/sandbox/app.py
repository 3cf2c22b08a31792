"""`create_sandbox`: the one place where the sandbox's parts meet.

The sandbox is for loopback and CI. It believes `X-Real-IP` from loopback, and anybody who reaches
`/sandbox/*` may move its clock and make it fail; it must never face a network that is not a test's own.
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

    `links` and `domains` are put in (or brought up to date, when `data` is a file that holds them already). A
    domain that only links name has nothing set up. With no keys given, any key is accepted where Dub wants
    one. `hosts` are names that it answers for besides IP addresses, `localhost`, `*.localhost`, `api.dub.co`
    and its links' domains; any other `Host` is a 403.

    `clock` is Unix time in seconds; `sleep` is what a fault's delay waits with. Serve it with uvicorn's
    `proxy_headers=False`, so that the peer is the address that the connection came from. It needs no lifespan
    to work; one only closes the file. Raises sqlite3.Error when `data` cannot be opened.
    """
    held = msgspec.structs.replace(settings) if settings else SandboxSettings()
    now = SandboxClock(clock)
    store = Store(data)
    domain_book = DomainBook(store)
    for spec in domains:
        domain_book.put(spec)
    book = LinkBook(store, now, domain_book, held.case_sensitive_domains)
    book.seed(links)
    clicks = ClickLog(store, now)
    people = People(store, now, held)
    gate = Gate(now, held, api_keys, publishable_keys)
    calls = CallLog(now)
    faults = FaultBook(now, sleep)
    app = Litestar(
        route_handlers=[
            *open_routes(book, clicks, held),
            *page_routes(gate, book, clicks),
            *lead_routes(gate, people, book),
            *sale_routes(gate, people, book),
            *event_routes(gate, store, book, now, held),
            *link_routes(gate, book, domain_book),
            *control_routes(now, calls, faults, held, domain_book),
        ],
        exception_handlers={DubError: on_error, HTTPException: on_error, Exception: on_error},
        on_shutdown=[store.close],
        openapi_config=None,
        logging_config=None,
    )
    redirector = Redirector(book, domain_book, clicks, now)
    app.asgi_handler = Front(app.asgi_handler, redirector, domain_book, calls, faults, hosts=hosts)
    return app
