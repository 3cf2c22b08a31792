"""Render the pages' templates, and send them under a strict Content-Security-Policy.

Jinja is imported and templates are compiled at the first page that is asked for, in a thread: a process that
shows no page starts without Jinja, and the event loop is never held.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Response
from litestar.datastructures import Cookie

from service.api.pages.assets import asset_url

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_FOLDERS = (Path(__file__).parent / "templates", Path(__file__).parents[1] / "console" / "templates")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400

# Scripts, styles and connections only from this server, nothing inline, no frames. Pages may hold names of
# links and URLs, so they are not cached, and no address is sent to other sites. ``same-origin`` and not
# ``no-referrer``: with that, browsers send ``Origin: null`` with forms.
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Pages:
    """Renders templates. ``console`` says whether there is a console to link to."""

    def __init__(self, *, console: bool) -> None:
        self._console = console

    async def reply(
        self,
        template: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        cookies: tuple[Cookie, ...] = (),
        **values: Any,
    ) -> Response[bytes]:
        """Return a page as a response."""
        return Response(
            await asyncio.to_thread(self.render, template, **values),
            status_code=status,
            media_type=MediaType.HTML,
            headers={**SECURITY_HEADERS, **(headers or {})},
            cookies=list(cookies),
        )

    def render(self, template: str, **values: Any) -> bytes:
        """Render a template. The first call takes a tenth of a second: call it in a thread."""
        return self._environment.get_template(template).render(values).encode("utf-8", "replace")

    @cached_property
    def _environment(self) -> "Environment":
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  see the module

        environment = Environment(
            loader=FileSystemLoader(_FOLDERS),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.globals.update(asset=asset_url, version=version("firstopen"), has_console=self._console)
        environment.filters.update(moment=moment, span=span, count=count, marked=marked)
        return environment


def redirect(to: str, *, cookies: tuple[Cookie, ...] = ()) -> Response[bytes]:
    """Return a redirect that the browser follows with GET, also after a form."""
    return Response(b"", status_code=303, headers={**SECURITY_HEADERS, "Location": to}, cookies=list(cookies))


def marked(text: str) -> "Markup":
    """Return a text with ``code`` between backquotes as HTML; everything else is escaped."""
    from markupsafe import Markup, escape  # noqa: PLC0415  comes with Jinja

    pieces = text.split("`")
    code = Markup("<code>{}</code>")  # its format() escapes
    return Markup("").join(code.format(each) if at % 2 else escape(each) for at, each in enumerate(pieces))


def moment(unix_s: float) -> str:
    """Return a time for people: date and time in UTC, to the second."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}"


def span(seconds: float) -> str:
    """Return a length of time for people, in its largest unit, such as ``5 min``."""
    units = ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min"))
    for length, unit in units:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 or seconds <= 0 else f"{seconds * 1000:.0f} ms"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 open`` or ``2 opens``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
