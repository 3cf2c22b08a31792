"""Short links that apps and backends create: templates, their destinations, and what is asked of Dub."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Annotated
from urllib.parse import quote

import ada_url
from msgspec import Meta, Struct

from service.domain.errors import FirstopenError, InvalidField
from service.domain.routing import NonEmpty
from service.domain.urls import WEB_SCHEMES

PREFIX_MAX_CHARS = 64
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PREFIX = re.compile(r"[A-Za-z0-9_\-/]*")
_STEPS = frozenset({".", ".."})  # a browser would leave out the path's last part


class LinkTemplateRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[apps.*.link_templates]]`` table: short links that the app itself may create."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}$")]
    url: NonEmpty
    parameters: dict[str, Annotated[int, Meta(ge=1, le=1000)]] = {}
    domain: NonEmpty | None = None
    prefix: Annotated[str, Meta(max_length=PREFIX_MAX_CHARS)] = ""
    per_install_per_day: Annotated[int, Meta(ge=1, le=10_000)] = 10


class BadTemplate(FirstopenError):
    """A template cannot be compiled. ``field`` is the invalid setting."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class LinkTemplate:
    """A compiled template. The constructor raises ``BadTemplate``."""

    def __init__(self, rule: LinkTemplateRule, domain: str, schemes: tuple[str, ...]) -> None:
        self.name = rule.name
        self.domain = domain
        self.prefix = rule.prefix
        self.per_day = rule.per_install_per_day
        self._url = rule.url
        self._longest = rule.parameters
        named = _PLACEHOLDER.findall(rule.url)
        for name in rule.parameters:
            if not _NAME.fullmatch(name):
                raise BadTemplate(f"parameters.{name}", "expected a name of a-z, 0-9 and _")
        if set(named) != set(rule.parameters):
            raise BadTemplate("url", f"has the parameters {_listed(named)}, not {_listed(rule.parameters)}")
        if not _PREFIX.fullmatch(rule.prefix):
            raise BadTemplate("prefix", "expected letters, digits, _, - and /, such as i/")
        ends = [self._filled(dict.fromkeys(rule.parameters, value)) for value in ("1", "2")]
        parsed = [parsed_url(end, schemes) for end in ends]
        if None in parsed or "{" in ends[0] or "}" in ends[0]:
            raise BadTemplate("url", "expected a URL of the web or of the app, with parameters as {name}")
        if len({(str(url.protocol), str(url.host), url.username) for url in parsed if url}) > 1:
            raise BadTemplate("url", "parameters may be in the path, the query and the fragment only")

    def destination(self, parameters: Mapping[str, str]) -> str:
        """Return the destination with these parameters, percent-encoded; raises ``InvalidField``."""
        for name in parameters:
            if name not in self._longest:
                raise InvalidField("parameters", f"expected only {_listed(self._longest)}")
        for name, longest in self._longest.items():
            value = parameters.get(name)
            if value is None:
                raise InvalidField(f"parameters.{name}", "is required")
            if not 1 <= len(value) <= longest or value in _STEPS or not value.isprintable():
                problem = f"expected 1 to {longest} printable characters, and not only dots"
                raise InvalidField(f"parameters.{name}", problem)
        return self._filled(parameters)

    def _filled(self, parameters: Mapping[str, str]) -> str:
        return _PLACEHOLDER.sub(lambda found: quote(parameters[found[1]], safe=""), self._url)


class WantedLink(Struct, frozen=True, kw_only=True):
    """A short link to create, unless one exists for the same ``identity``.

    ``device`` is the install's hash, None for a link of no install. ``per_day`` limits how many links of the
    template an install may create in a day; None: any number.
    """

    identity: tuple[str, ...]  # hashes under which it may be stored; the first is the current one
    device: str | None
    template: str
    per_day: int | None
    external_id: str
    url: str
    domain: str
    key: str | None = None
    prefix: str | None = None
    tenant_id: str | None = None
    track_conversion: bool | None = None


class ShortLink(Struct, frozen=True, rename="camel"):
    """A short link, as Dub describes it."""

    id: str
    domain: str
    key: str
    short_link: str
    url: str


class StoredLink(Struct, frozen=True):
    """A link that was asked for. ``link`` is None while Dub has not created it."""

    name: str
    created_at: float  # Unix seconds
    link: ShortLink | None


def parsed_url(text: str, schemes: tuple[str, ...]) -> ada_url.URL | None:
    """Return a destination, None if it is not a URL of the web or of the app, or has user info."""
    try:
        url = ada_url.URL(text)
    except ValueError:
        return None
    usable = str(url.protocol).removesuffix(":") in WEB_SCHEMES.union(schemes)
    return url if usable and not url.username and not url.password else None


def day_of(now: float) -> tuple[float, float]:
    """Return when the UTC day of a moment began and when it ends; all in Unix seconds."""
    began = datetime.combine(datetime.fromtimestamp(now, UTC).date(), time(), UTC)
    return began.timestamp(), (began + timedelta(days=1)).timestamp()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"
