"""The web side of a short link: what a browser gets that follows it.

What can go wrong: a crawler's preview counted as a person; the link handed through the store so encoded that
the app reads something else back; a target with a newline in it ending up as a second header.
"""

from html import escape
from typing import Any
from urllib.parse import parse_qsl, quote

from litestar.types import Receive, Scope, Send

from service.sandbox.agents import agent_of
from service.sandbox.clicks import ClickLog
from service.sandbox.clock import HOUR_S, SandboxClock
from service.sandbox.links import Link, LinkBook, SandboxLink
from service.sandbox.urls import (
    ROOT_KEY,
    Query,
    header_safe,
    is_app_store,
    is_play_store,
    lay_over,
    short_link,
    with_install_referrer,
)
from service.sandbox.web import (
    NO_TRACK,
    Reply,
    Visitor,
    host_of,
    html_reply,
    method_of,
    send_reply,
    visitor_of,
)

OURS = frozenset({"qr", "pw", NO_TRACK})  # parameters meant for the redirect, not for the destination

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><body>{body}</body></html>
"""
_CLIPBOARD_BODY = """<h1>Get the app</h1>
<p>This copies the link, so that the app can open at the right place.</p>
<input id="short-link" readonly value="{link}">
<a id="store" href="{store}">Get the app</a>
<script>
document.getElementById("store").addEventListener("click", () =>
  navigator.clipboard.writeText(document.getElementById("short-link").value));
</script>"""
_LOCKED_BODY = """<form method="get"><label>Password <input name="pw" type="password"></label>
<button>Open</button></form>"""


class Redirector:
    """An ASGI application that answers `GET` and `HEAD` on a link's domain."""

    def __init__(self, links: LinkBook, clicks: ClickLog, clock: SandboxClock) -> None:
        self._links = links
        self._clicks = clicks
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one click."""
        del receive  # a click has no body
        await send_reply(send, self.visit(scope), head_only=method_of(scope) == "HEAD")

    def visit(self, scope: Scope) -> Reply:
        """Record the click, unless nobody made it, and send its maker on."""
        key = scope["path"].strip("/") or ROOT_KEY
        link = self._links.find(host_of(scope), key)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        closed = self._closed(link.spec, dict(query)) if link else _page(404, "Link not found")
        if link is None or closed is not None:
            return closed or _page(404, "Link not found")
        return self._follow(link, query, visitor_of(scope), counted=method_of(scope) == "GET")

    def _closed(self, spec: SandboxLink, query: dict[str, str]) -> Reply | None:
        """Return what a visitor gets instead of the destination, if the link is not open to them."""
        if spec.disabled:
            return _page(404, "This link was disabled")
        if spec.expired(self._clock.now_s()):
            return _moved(spec.expired_url) if spec.expired_url else _page(410, "This link has expired")
        if spec.password is not None and query.get("pw") != spec.password:
            return _page(200, "Password required", _LOCKED_BODY)
        return None

    def _follow(self, link: Link, query: Query, visitor: Visitor, *, counted: bool) -> Reply:
        spec = link.spec
        agent = agent_of(visitor.user_agent)
        passed_on = [(name, value) for name, value in query if name not in OURS]
        by_system = {"iOS": spec.ios, "Android": spec.android}
        target = lay_over(by_system.get(agent.os) or spec.url, passed_on)
        store_bound = is_app_store(target) or is_play_store(target)
        headers: list[tuple[bytes, bytes]] = []
        counted = counted and not agent.bot and not visitor.no_track
        if counted:
            key = spec.key if spec.key == ROOT_KEY else spec.key.lower()
            trigger = "qr" if dict(query).get("qr") == "1" else "link"
            click_id, new = self._clicks.record(link, key, visitor, trigger=trigger, url=target)
            if new and store_bound:
                self._clicks.remember_for_first_open(link, click_id, visitor)
            if spec.track_conversion:
                target = lay_over(target, [("dub_id", click_id)])
            cookie = f"dub_id_{spec.domain}_{quote(spec.key, safe='')}={click_id}; Path=/; Max-Age={HOUR_S}"
            headers.append((b"set-cookie", cookie.encode()))
        address = short_link(spec.domain, spec.key, passed_on)
        if is_play_store(target):
            target = with_install_referrer(target, address)
        if is_app_store(target) and agent.os == "iOS" and not agent.bot:
            body = _CLIPBOARD_BODY.format(link=escape(address), store=escape(header_safe(target)))
            return _page(200, "Get the app", body, headers)
        return _moved(target, headers)


def _moved(url: str, headers: Any = ()) -> Reply:
    return Reply(302, ((b"location", header_safe(url).encode()), *headers))


def _page(status: int, title: str, body: str = "", headers: Any = ()) -> Reply:
    body = body or f"<h1>{escape(title)}</h1>"
    return html_reply(status, _PAGE.format(title=escape(title), body=body), headers)
