"""Answer browsers that follow a short link.

What can go wrong: a crawler's preview is counted as a click; a parameter for Dub (such as a link's password)
is passed on to the destination; the link in the install referrer is encoded so that the app decodes something
else; a newline in a target becomes a second header.
"""

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from litestar.types import Receive, Scope, Send

from service.sandbox.agents import agent_of
from service.sandbox.clicks import ClickLog
from service.sandbox.clock import HOUR_S, SandboxClock
from service.sandbox.domains import DomainBook, SandboxDomain
from service.sandbox.links import Link, LinkBook
from service.sandbox.pages import (
    DEEP_LINK_PATH,
    DESTINATION_PATH,
    NOT_FOUND_PATH,
    deep_link_page,
    destination_page,
    destination_path,
    message_page,
    password_page,
)
from service.sandbox.urls import (
    ROOT_KEY,
    Query,
    header_safe,
    is_app_store,
    is_play_store,
    link_path,
    merge_query,
    query_value,
    with_install_referrer,
)
from service.sandbox.web import (
    NO_TRACK,
    Headers,
    Reply,
    Visitor,
    header,
    host_of,
    json_reply,
    method_of,
    send_reply,
    visitor_of,
)

SKIP_DEEP_LINK_PAGE = "skip_deeplink_preview"
# Parameters for Dub, which are not passed on to the destination.
FOR_DUB = frozenset({SKIP_DEEP_LINK_PAGE, NO_TRACK, "qr", "pw", "redir_url", "dub-client-reference-id"})
POWERED_BY = (b"x-powered-by", b"Dub (an embedded sandbox)")


class Visit(msgspec.Struct, frozen=True):
    """One request on a link's domain; `origin` is the start of URLs under which the browser reaches it."""

    domain: SandboxDomain
    origin: str
    key: str
    query: Query
    visitor: Visitor
    counted: bool

    def parameter(self, name: str) -> str:
        """Return a parameter's last value; "" if it was not sent."""
        return dict(self.query).get(name, "")

    def short_link(self, *, skips_page: bool) -> str:
        """Return the link's URL as requested; with `skips_page`, a URL that leads directly to the store."""
        query = [pair for pair in self.query if not skips_page or pair[0] != SKIP_DEEP_LINK_PAGE]
        query += [(SKIP_DEEP_LINK_PAGE, "1")] if skips_page else []
        return self.origin + link_path(self.key) + (f"?{urlencode(query)}" if query else "")


class Redirector:
    """An ASGI application that answers `GET` and `HEAD` on a link's domain."""

    def __init__(self, links: LinkBook, domains: DomainBook, clicks: ClickLog, clock: SandboxClock) -> None:
        self._links = links
        self._domains = domains
        self._clicks = clicks
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        del receive  # a click has no body
        await send_reply(send, self.answer(scope), head_only=method_of(scope) == "HEAD")

    def answer(self, scope: Scope) -> Reply:
        """Return one of the domain's files or pages, or the redirect of a link."""
        path = scope["path"]
        visit = self._visit(scope, path.removeprefix(DEEP_LINK_PATH))
        file = visit.domain.well_known(path)
        if file is not None:
            return json_reply(200, file)
        if path == NOT_FOUND_PATH:
            return message_page(404, "This link was disabled")
        if path == DESTINATION_PATH:
            return destination_page(visit.parameter("url"))
        link = self._links.find(visit.domain.domain, visit.key)
        if link is None:
            return message_page(404, "Link not found")
        return _deep_link_page(link, visit) if path.startswith(DEEP_LINK_PATH) else self._follow(link, visit)

    def _visit(self, scope: Scope, path: str) -> Visit:
        domain = self._domains.get(host_of(scope))
        # A browser reaches `*.localhost` by port, without TLS; for other domains a test sets only `Host`.
        local = domain.domain.endswith(".localhost")
        return Visit(
            domain=domain,
            origin=f"http://{header(scope, b'host')}" if local else f"https://{domain.domain}",
            key=path.strip("/") or ROOT_KEY,
            query=parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True),
            visitor=visitor_of(scope),
            counted=method_of(scope) == "GET",
        )

    def _follow(self, link: Link, visit: Visit) -> Reply:
        """Record the click, unless the visitor is a bot or opted out, and redirect."""
        spec = link.spec
        if spec.disabled:
            return _redirect(NOT_FOUND_PATH, 307)
        if spec.expired(self._clock.now_s()):
            if spec.expired_url is None:
                return message_page(410, "This link has expired")
            return _redirect(_shown(spec.expired_url, visit.domain), 302)
        if spec.password is not None and visit.parameter("pw") != spec.password:
            return password_page()
        status = 301 if spec.key == ROOT_KEY else 302
        agent = agent_of(visit.visitor.user_agent)
        passed_on = [(name, value) for name, value in visit.query if name not in FOR_DUB]
        target = merge_query(target_of(link, agent.os), passed_on)
        cookies: Headers = ()
        if visit.counted and not agent.bot and not visit.visitor.no_track:
            click_id = self._record(link, visit, target)
            cookies = (_click_cookie(link, click_id),)
            target = _with_credit(link, target, click_id)
        phone = agent.os in {"iOS", "Android"} and not agent.bot
        if visit.domain.deep_view and _is_store(target):
            if phone and visit.parameter(SKIP_DEEP_LINK_PAGE) != "1":
                page = DEEP_LINK_PATH + visit.short_link(skips_page=False).removeprefix(f"{visit.origin}/")
                return _redirect(page, status, cookies)
            if is_play_store(target):
                target = with_install_referrer(target, visit.short_link(skips_page=True))
        return _redirect(_shown(target, visit.domain), status, cookies)

    def _record(self, link: Link, visit: Visit, target: str) -> str:
        """Record the click; return its id."""
        key = link.spec.key if link.spec.key == ROOT_KEY else link.spec.key.lower()
        trigger = "qr" if visit.parameter("qr") == "1" else "link"
        click_id, new = self._clicks.record(link, key, visit.visitor, trigger=trigger, url=target)
        if new and _is_store(target):
            self._clicks.remember_for_first_open(link, click_id, visit.visitor)
        return click_id


def target_of(link: Link, system: str) -> str:
    """Return a link's destination on this operating system."""
    spec = link.spec
    return {"iOS": spec.ios, "Android": spec.android}.get(system) or spec.url


def _deep_link_page(link: Link, visit: Visit) -> Reply:
    """Return the page before the store; on Android, its button opens an `intent://` URL."""
    system = agent_of(visit.visitor.user_agent).os
    onward = visit.short_link(skips_page=True)
    app = query_value(target_of(link, system), "id")
    scheme, _, rest = onward.partition("://")
    fallback = quote(onward, safe="")
    intent = f"intent://{rest}#Intent;scheme={scheme};package={app};S.browser_fallback_url={fallback};end"
    return deep_link_page(
        visit.short_link(skips_page=False), onward, intent if system == "Android" and app else ""
    )


def _with_credit(link: Link, target: str, click_id: str) -> str:
    """Add the click's id to the target if the link tracks conversions or belongs to a partner."""
    spec = link.spec
    if spec.partner_id:
        return merge_query(target, [("dub_id", click_id), ("via", spec.key)])
    return merge_query(target, [("dub_id", click_id)]) if spec.track_conversion else target


def _click_cookie(link: Link, click_id: str) -> tuple[bytes, bytes]:
    spec = link.spec
    path = f"/{quote(spec.key)}"
    cookie = f"dub_id_{spec.domain}_{quote(spec.key, safe='')}={click_id}; Path={path}; Max-Age={HOUR_S}"
    return b"set-cookie", cookie.encode()


def _shown(url: str, domain: SandboxDomain) -> str:
    """Return the URL to redirect to: the destination, or the page that is shown instead of it."""
    return destination_path(url) if domain.local_destinations else url


def _is_store(url: str) -> bool:
    return is_app_store(url) or is_play_store(url)


def _redirect(url: str, status: int, headers: Any = ()) -> Reply:
    return Reply(status, ((b"location", header_safe(url).encode()), POWERED_BY, *headers))
