"""Check an app's routes: run its route tests, and find routes that no URL can reach.

What can go wrong: a route is reported as unreachable although some URL takes it. Therefore each route is
checked with URLs that its own pattern matches; if no such URL can be generated (for an unusual regular
expression), the route is not reported.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial

from msgspec import Struct

from service.config.settings import AppSettings, SettingsError, compile_router
from service.domain.route_explanations import with_scheme
from service.domain.route_patterns import OWN, SCHEME_AS_HOST, Parts, forms_of
from service.domain.routing import CompiledRoute, Route, Router, RouteTest

_WORDS = ("1", "a", "2024-01-31", "a-b", "X1", "de", "x.y", "0f8fad5b-d9cb-469f-a165-70867728950e")
_RESTS = ("x", "x/y", "")  # texts in place of *
_TOKEN = re.compile(
    r"\\(?P<literal>.)"
    r"|\{(?P<inner>(?:\\.|[^{}\\])*)\}(?P<inner_mod>[?*+]?)"
    r"|(?P<before>/?)(?:(?P<star>\*)|(?P<name>:[A-Za-z_$][\w$]*)?(?P<regex>\((?:\\.|[^()\\]|\([^()]*\))*\))?)"
    r"(?P<mod>[?*+]?)",
    re.DOTALL,
)


class RouteTestResult(Struct, frozen=True):
    """The result of a route test. ``index`` is the test's position in the file, from 0."""

    index: int
    test: RouteTest
    route: Route

    @property
    def passed(self) -> bool:
        """Return True if the URL lands on the expected screen, with the expected params."""
        expected = self.test.params
        return self.route.screen == self.test.screen and expected in (None, self.route.params)


class Finding(Struct, frozen=True):
    """A probable mistake in a route. ``index`` is the route's position in the file, from 0."""

    index: int
    message: str


def run_tests(app: AppSettings, router: Router) -> list[RouteTestResult]:
    """Run an app's route tests."""
    return [
        RouteTestResult(index, test, router.route(with_scheme(test.url), "", test.app_version))
        for index, test in enumerate(app.route_tests)
    ]


def refuse_failing_tests(apps: Mapping[str, AppSettings]) -> None:
    """Raise ``SettingsError``, which names each failing route test, if any fails."""
    problems = [
        f"apps.{name}.route_tests[{result.index}]: {problem_of(result)}"
        for name, app in apps.items()
        for result in run_tests(app, compile_router(name, app))
        if not result.passed
    ]
    if problems:
        raise SettingsError("\n".join(problems))


def problem_of(result: RouteTestResult) -> str:
    """Return a message: what a failed test expected, and where the URL lands."""
    test, route = result.test, result.route
    expected = _shown(test.screen, test.params)
    landed = _shown(route.screen, None if test.params is None else route.params)
    return f"expected {test.url} to land on {expected}, but it lands on {landed} ({route.reason})"


def findings(router: Router) -> list[Finding]:
    """Return the routes that no URL can reach, and those that repeat an earlier one's pattern."""
    found: list[Finding] = []
    seen: dict[Parts, int] = {}
    for route in router.routes:
        parts = route.pattern.parts
        first = seen.setdefault(parts, route.index)
        if parts.protocol == OWN and not parts.host:
            message = "no URL can reach it: its scheme is neither http, https nor one of the app's schemes"
        elif first != route.index:
            message = f"no URL can reach it: it has the same pattern as #{first}"
        elif taken_by := _taken_by(router, route):
            others = " and ".join(f"#{index}" for index in taken_by)
            message = f"no URL can reach it: every URL that it matches goes to {others}"
        else:
            continue
        found.append(Finding(route.index, message))
    return found


def sample_url(router: Router, route: CompiledRoute) -> str | None:
    """Return a URL that this route takes, or None if none could be generated."""
    for url in _sample_urls(route.pattern.parts):
        found = router.first_match(url)
        if found is not None and found[0] is route:
            return url
    return None


def _taken_by(router: Router, route: CompiledRoute) -> list[int]:
    """Return the indexes of the routes that take all URLs generated for ``route``.

    Return an empty list if ``route`` takes at least one of them, or if none could be generated.
    """
    taken_by: set[int] = set()
    for url in _sample_urls(route.pattern.parts):
        target = forms_of(url)
        if route.pattern.match(target, target.forms[0]) is None:
            continue
        found = router.first_match(url)
        if found is None or found[0] is route:
            return []
        taken_by.add(found[0].index)
    return sorted(taken_by)


def _sample_urls(parts: Parts) -> Iterator[str]:
    """Generate URLs that a pattern probably matches."""
    for number in range(len(_WORDS)):
        for rest in _RESTS:
            for keeps_optional in (True, False):
                fill = partial(_fill, number=number, rest=rest, keeps_optional=keeps_optional)
                host, path = fill(parts.host), fill(parts.path)
                if parts.protocol == OWN:
                    start = f"{host.removesuffix(SCHEME_AS_HOST)}:/"
                else:
                    start = f"{parts.protocol}://{host}" + (f":{fill(parts.port)}" if parts.port else "")
                query = "&".join(f"{name}={fill(value)}" for name, value in parts.query)
                end = "" if parts.fragment == "*" else f"#{fill(parts.fragment)}"
                yield f"{start}{path}" + (f"?{query}" if query else "") + end


def _fill(component: str, *, number: int, rest: str, keeps_optional: bool) -> str:
    """Replace the groups of a pattern's component with sample text; ``number`` chooses the words."""

    def replaced(token: re.Match[str]) -> str:
        if token["literal"] is not None:
            return token["literal"]
        optional = (token["inner_mod"] or token["mod"]) in {"?", "*"}
        if optional and not keeps_optional:
            return ""
        if token["inner"] is not None:
            return _fill(token["inner"], number=number, rest=rest, keeps_optional=keeps_optional)
        if token["star"]:
            return token["before"] + rest
        if token["name"] is None and token["regex"] is None:
            return token[0]
        return token["before"] + _word(token["regex"], number)

    return _TOKEN.sub(replaced, component)


def _word(regex: str | None, number: int) -> str:
    """Return a sample word; one that matches the group's regular expression, if one is found."""
    words: tuple[str, ...] = _WORDS
    if regex is not None:
        words = (*_WORDS, *re.findall(r"[\w.-]+", regex))
        try:
            words = tuple(word for word in words if re.fullmatch(regex, word)) or _WORDS
        except re.error:
            words = _WORDS
    return words[number % len(words)]


def _shown(screen: str, params: Mapping[str, str] | None) -> str:
    return screen if params is None else f"{screen} {dict(params)}"
