"""``firstopen routes``: print routes as a table, check them, and explain which one a URL takes."""

import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import rich_click as click
from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.cli.output import fail, pick_app, read_settings
from service.config.route_checks import Finding, RouteTestResult, findings, problem_of, run_tests
from service.config.settings import AppSettings, compile_router
from service.domain.errors import InvalidField
from service.domain.route_explanations import about_version, why_not_returned, why_unlisted, with_scheme
from service.domain.routing import CompiledRoute, Route, Router
from service.domain.wrapped_links import find_deep_link

_PIPED_COLUMNS = 200


class CheckedApp(Struct, frozen=True):
    """An app's routes, with the results of the checks."""

    name: str
    app: AppSettings
    findings: list[Finding]
    tests: list[RouteTestResult]

    @property
    def passes(self) -> bool:
        """Return True if no route test fails; a finding is only a warning."""
        return all(result.passed for result in self.tests)


class Explained(Struct, frozen=True):
    """The screen on which a URL lands in an app, and why."""

    name: str
    url: str
    app_version: str | None
    route: Route
    matched: CompiledRoute | None
    why: str


HELP = """\
Print each app's routes, or, with URL, which route a destination URL takes and why.

Warns about routes that no URL can reach, and runs the file's route tests. Exit code 1: a route test fails, or
URL does not land on the screen of --expect.

\b
  firstopen routes
  firstopen routes 'https://acme.com/product/123?x=1'
  firstopen routes https://acme.com/invite/anna --app-version 2.1 --expect update
"""


@click.command("routes", help=HELP)
@click.argument("url", required=False)
@click.option("--app-version", metavar="VERSION", help="The build that opens it, such as 2.1.  [the newest]")
@click.option("--app", "app_name", metavar="NAME", help="Only this app.")
@click.option("--expect", metavar="SCREEN", help="The screen on which URL must land.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with one object for each app.")
def command(
    url: str | None, app_version: str | None, app_name: str | None, expect: str | None, *, as_json: bool
) -> None:
    """Print, check or explain routes."""
    settings = read_settings()
    if app_name is not None:
        pick_app(settings, app_name)
    apps = {name: app for name, app in settings.apps.items() if app_name in (None, name)}
    if expect is not None and (url is None or len(apps) > 1):
        fail("--expect: needs a URL, and --app if there are several apps")
    if url is None:
        checked = check_apps(apps)
        print_apps(checked, as_json=as_json)
        sys.exit(not all(each.passes for each in checked))
    explained = explain(apps, url, app_version)
    print_explained(explained, as_json=as_json)
    if expect is not None and explained[0].route.screen != expect:
        click.echo(f"firstopen: expected {expect}, but it lands on {explained[0].route.screen}", err=True)
        sys.exit(1)


def check_apps(apps: Mapping[str, AppSettings]) -> list[CheckedApp]:
    """Check every app's routes and run its route tests."""
    checked = []
    for name, app in apps.items():
        router = compile_router(name, app)
        checked.append(CheckedApp(name, app, findings(router), run_tests(app, router)))
    return checked


def print_apps(checked: list[CheckedApp], *, as_json: bool) -> None:
    """Print every app's routes in the order of matching, with warnings and failed tests."""
    if as_json:
        _print_json([_app_document(each) for each in checked])
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_COLUMNS)
    for each in checked:
        _print_app(console, each)


def explain(apps: Mapping[str, AppSettings], url: str, app_version: str | None) -> list[Explained]:
    """Explain, for each app, which route a destination URL takes and why."""
    url = with_scheme(url)
    explained = []
    for name, app in apps.items():
        router = compile_router(name, app)
        route = router.route(url, "", app_version)
        found = router.first_match(route.url) if route.url else None
        matched = None if found is None else found[0]
        why = _why(app, router, matched, route, url, app_version)
        explained.append(Explained(name, url, app_version, route, matched, why))
    return explained


def print_explained(explained: list[Explained], *, as_json: bool) -> None:
    """Print where a URL lands in each app, and why."""
    if as_json:
        _print_json([_explained_document(each) for each in explained])
        return
    for number, each in enumerate(explained):
        route = each.route
        rows = {
            "app": each.name,
            "pattern": "(none)" if each.matched is None else each.matched.rule.pattern,
            "screen": route.screen,
            "params": ", ".join(f"{key}={value}" for key, value in route.params.items()) or "(none)",
            "url": route.url or "(none)",
            "reason": f"{route.reason}: {each.why}",
        }
        if number:
            click.echo()
        for heading, text in rows.items():
            click.echo(f"{heading:<8} {text}")


def _print_app(console: Console, checked: CheckedApp) -> None:
    app = checked.app
    table = Table(title=f"{checked.name} ({', '.join(app.domains)})", title_justify="left")
    for heading in ("#", "pattern", "screen", "query", "min_version", "fallback"):
        table.add_column(heading, overflow="fold")
    for index, rule in enumerate(app.routes):
        fallback = rule.fallback or (app.update_screen if rule.min_version else "")
        cells = (rule.pattern, rule.screen, ", ".join(rule.query), rule.min_version or "", fallback)
        table.add_row(str(index), *(escape(cell) for cell in cells))
    table.add_row("", "anything else", escape(app.default_screen), "", "", "")
    console.print(table)
    for finding in checked.findings:
        click.echo(f"warning: #{finding.index} {app.routes[finding.index].pattern}: {finding.message}")
    for result in checked.tests:
        if not result.passed:
            click.echo(f"failed: route_tests[{result.index}]: {problem_of(result)}")
    if checked.tests:
        passed = sum(result.passed for result in checked.tests)
        click.echo(f"route tests: {passed} of {len(checked.tests)} passed")


def _app_document(checked: CheckedApp) -> dict[str, Any]:
    app = checked.app
    return {
        "app": checked.name,
        "domains": app.domains,
        "schemes": app.schemes,
        "defaultScreen": app.default_screen,
        "routes": [
            {
                "pattern": rule.pattern,
                "screen": rule.screen,
                "query": rule.query,
                "minVersion": rule.min_version,
                "fallback": rule.fallback,
            }
            for rule in app.routes
        ],
        "warnings": [{"route": each.index, "message": each.message} for each in checked.findings],
        "tests": [
            {"url": each.test.url, "passed": each.passed, "expected": each.test.screen, "route": each.route}
            for each in checked.tests
        ],
    }


def _explained_document(explained: Explained) -> dict[str, Any]:
    matched = explained.matched
    return {
        "app": explained.name,
        "url": explained.url,
        "appVersion": explained.app_version,
        "index": None if matched is None else matched.index,
        "pattern": None if matched is None else matched.rule.pattern,
        "route": explained.route,
        "why": explained.why,
    }


def _print_json(document: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(document)))


def _why(
    app: AppSettings,
    router: Router,
    matched: CompiledRoute | None,
    route: Route,
    url: str,
    app_version: str | None,
) -> str:
    if route.url is None:
        return why_not_returned(router, url)
    if route.reason == "unlisted":
        return _unlisted(app, router, route.url)
    minimum = None if matched is None else matched.rule.min_version
    if route.reason == "update_required":
        return f"the route is for {minimum} and newer, and {app_version} is older"
    return f"the first pattern that matches{about_version(minimum, app_version)}"


def _unlisted(app: AppSettings, router: Router, url: str) -> str:
    try:
        short = find_deep_link(url, app.domains).domain in app.domains
    except InvalidField:
        short = False
    if short:
        return "this is, or contains, a short link, and only Dub knows its destination: give the destination"
    return f"{why_unlisted(router, url)}; the app may open it in a browser"
