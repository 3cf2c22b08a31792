"""The page to try something without recording it: a dry run of an open, and which route a URL takes."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, get_args

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta, Struct, inspect, structs

from service.api.console.decisions import ShownDecision, dry_decision
from service.api.console.sessions import PATH
from service.api.console.shell import ConsoleRequest, Shell
from service.api.traces import DryRunRequest
from service.attribution.resolver import Resolver
from service.domain.device_identity import TrustedProxies
from service.domain.errors import CallerError, InvalidField
from service.domain.models import Answer, App, Caller
from service.domain.open_explanations import MATCH_TYPES, OUTCOMES
from service.domain.route_explanations import Verdict, explain_route, verdicts, with_scheme
from service.domain.routing import Route
from service.domain.wrapped_links import find_deep_link

_URL_MAX_CHARS = 32_000
_VERSION_MAX_CHARS = 64
_LONG = frozenset({"deep_link", "install_referrer", "clipboard", "user_agent"})
_FIRST = ("deep_link", "install_id", "platform", "app_version", "ip", "user_agent")


class FormField(Struct, frozen=True):
    """One field of the dry run's form, as the API describes it."""

    name: str
    wire_name: str
    hint: str
    choices: tuple[tuple[str, str], ...] = ()
    is_long: bool = False


class Tested(Struct, frozen=True):
    """Where a URL lands, and what each route says to it."""

    route: Route
    words: str
    verdicts: list[Verdict]


class DryRun(Struct, frozen=True):
    """The answer that an open would get, and how it would be decided."""

    answer: Answer
    decision: ShownDecision


class _Given(dict[str, str]):
    """The fields of the last form, empty for all that it did not have."""

    def __missing__(self, key: str) -> str:
        return ""


def try_pages(
    shell: Shell, resolver: Resolver, default_budget_ms: int, clock: Callable[[], float]
) -> list[HTTPRouteHandler]:
    """Build the handlers of the page. ``clock`` returns monotonic seconds."""
    shell.add("Try", f"{PATH}/try")
    fields = form_fields()

    async def page(request: ConsoleRequest, **values: Any) -> Response[bytes]:
        shown: dict[str, Any] = {
            "given": _Given(),
            "tested": None,
            "dry_run": None,
            "problem": None,
            **values,
        }
        return await shell.page(
            request,
            "try.html",
            fields=fields,
            domains=request.app_of_session.domains,
            routes=request.app_of_session.router.routes,
            outcomes=OUTCOMES,
            match_types=MATCH_TYPES,
            **shown,
        )

    @get(f"{PATH}/try", before_request=shell.signed_in)
    async def show(request: ConsoleRequest) -> Response[bytes]:
        """Show both forms."""
        return await page(request)

    @post(f"{PATH}/try/route", status_code=200, before_request=shell.signed_in)
    async def test_route(request: ConsoleRequest) -> Response[bytes]:
        """Show which route a URL takes, and why not the others."""
        given = await request.fields()
        url = given.get("url", "").strip()[:_URL_MAX_CHARS]
        app_version = given.get("route_version", "").strip()[:_VERSION_MAX_CHARS] or None
        tested = await asyncio.to_thread(_tested, request.app_of_session, url, app_version)
        return await page(request, given=_Given(given), tested=tested)

    @post(f"{PATH}/try/open", status_code=200, before_request=shell.signed_in)
    async def try_open(request: ConsoleRequest) -> Response[bytes]:
        """Decide an open in a dry run."""
        given = await request.fields()
        app = request.app_of_session
        caller = Caller(app, None, "", "", clock(), TrustedProxies(()))
        try:
            report = _request_of(given).to_dry_report(caller, default_budget_ms, resolver.parse_link)
            answer, trace = await resolver.dry_run(report)
        except CallerError as exc:
            return await page(request, given=_Given(given), problem=str(exc))
        decision = await dry_decision(app, answer, trace, report.app_version)
        return await page(request, given=_Given(given), dry_run=DryRun(answer, decision))

    return [show, test_route, try_open]


def form_fields() -> list[FormField]:
    """Return a field for each of ``POST /v1/opens/dry-run``, the most used first."""
    found = {field.name: _form_field(field) for field in structs.fields(DryRunRequest)}
    return [found.pop(name) for name in _FIRST] + list(found.values())


def _form_field(field: structs.FieldInfo) -> FormField:
    hint, choices = "", tuple[tuple[str, str], ...]()
    for part in _parts_of(field.type):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta):
                hint = meta.description or hint
    kind = inspect.type_info(field.type)
    for each in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        inner = each.type if isinstance(each, inspect.Metadata) else each
        if isinstance(inner, inspect.BoolType):
            choices = (("true", "true"), ("false", "false"))
        elif isinstance(inner, inspect.LiteralType):
            choices = tuple((str(value), str(value)) for value in inner.values)
    return FormField(field.name, field.encode_name, hint, choices, field.name in _LONG)


def _parts_of(annotation: Any) -> tuple[Any, ...]:
    """Return an annotation and the types inside it, of which one may be ``Annotated``."""
    return annotation, *(part for each in get_args(annotation) for part in _parts_of(each))


def _request_of(given: Mapping[str, str]) -> DryRunRequest:
    """Return the dry run that the form asks for. The fields are text, which is read as in JSON."""
    values: dict[str, Any] = {}
    for name in DryRunRequest.__struct_fields__:
        text = given.get(name, "")
        if text.strip():
            values[name] = text
    if "consent" in values:
        values["consent"] = values["consent"] == "true"
    return DryRunRequest(**values)


def _is_short_link(app: App, url: str) -> bool:
    try:
        return find_deep_link(url, app.domains).domain in app.domains
    except InvalidField:
        return False


def _tested(app: App, typed: str, app_version: str | None) -> Tested:
    url = with_scheme(typed)
    route = app.router.route(url, "", app_version)
    words = explain_route(app.router, route, destination=url, app_version=app_version)
    if _is_short_link(app, url):
        words += " This is, or contains, a short link, and only Dub knows its destination: try a dry run."
    others = [] if route.url is None else verdicts(app.router, route.url, app_version)
    return Tested(route, words, others)
