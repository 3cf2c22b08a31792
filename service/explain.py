"""``firstopen routes``: patterns as a table, and why a URL would land where it does."""

from collections.abc import Mapping

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.resolve.errors import InvalidField
from service.resolve.evidence import parse_deep_link
from service.resolve.routing import Route, Router, parse_version
from service.settings import AppSettings, compile_router

_PIPED_COLUMNS = 200


def print_routes(apps: Mapping[str, AppSettings]) -> None:
    """Print every app's routes in the order in which they are tried."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_COLUMNS)
    for name, app in apps.items():
        table = Table(title=f"{name} ({', '.join(app.domains)})", title_justify="left")
        for heading in ("#", "pattern", "screen", "min_version", "fallback"):
            table.add_column(heading, overflow="fold")
        for index, rule in enumerate(app.routes):
            fallback = rule.fallback or (app.update_screen if rule.min_version else "")
            cells = (rule.pattern, rule.screen, rule.min_version or "", fallback)
            table.add_row(str(index), *(escape(cell) for cell in cells))
        table.add_row("", "anything else", escape(app.default_screen), "", "")
        console.print(table)


def print_route(apps: Mapping[str, AppSettings], url: str, app_version: str | None) -> None:
    """Print, for each app, which route a destination URL takes and why."""
    if "://" not in url and "." in url.partition("/")[0] and ":" not in url:
        url = f"https://{url}"
    for number, (name, app) in enumerate(apps.items()):
        router = compile_router(name, app)
        route = router.route(url, "", app_version)
        rows = {
            "app": name,
            "pattern": _pattern(router, route),
            "screen": route.screen,
            "params": ", ".join(f"{key}={value}" for key, value in route.params.items()) or "(none)",
            "url": route.url or "(none)",
            "reason": f"{route.reason}: {_why(app, router, route, url, app_version)}",
        }
        if number:
            click.echo()
        for heading, text in rows.items():
            click.echo(f"{heading:<8} {text}")


def _pattern(router: Router, route: Route) -> str:
    found = router.first_match(route.url) if route.url else None
    return "(none)" if found is None else found[0].rule.pattern


def _why(app: AppSettings, router: Router, route: Route, url: str, app_version: str | None) -> str:
    if route.reason == "default":
        own = ", ".join(app.schemes) or "none set"
        return f"only http, https and the app's own schemes ({own}) are handed out"
    if route.reason == "unlisted":
        return _unlisted(app, url)
    found = router.first_match(route.url or "")
    minimum = found[0].rule.min_version if found else None
    if route.reason == "update_required":
        return f"the route is for {minimum} and newer, and {app_version} is older"
    return f"the first pattern that matches{_about_version(minimum, app_version)}"


def _about_version(minimum: str | None, app_version: str | None) -> str:
    if minimum is None:
        return ""
    if app_version is None:
        return f"; it is for {minimum} and newer, which a build without a version is taken to be"
    if parse_version(app_version) is None:
        return f"; {app_version!r} is no version, so it is taken as new enough for {minimum}"
    return f"; {app_version} is new enough for {minimum}"


def _unlisted(app: AppSettings, url: str) -> str:
    try:
        short = parse_deep_link(url).domain in app.domains
    except InvalidField:
        short = False
    if short:
        return "this is a short link: only Dub knows its destination; ask with the destination"
    return "no pattern covers it; the app may open it on the web"
