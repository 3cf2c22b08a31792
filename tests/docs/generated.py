"""Write the parts of pages that are generated from the code: settings, metrics and log events."""

import ast
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from prometheus_client import ProcessCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from service.config.files import RELOADED
from service.config.settings import AndroidSettings, AppSettings, File, IosSettings, WebhookSettings
from service.config.starter import STARTER
from service.domain.gate import GateRule, PlatformGateRule
from service.domain.routing import RouteRule, RouteTest
from service.domain.short_links import LinkTemplateRule
from service.telemetry.events import Event
from service.telemetry.metrics import Metrics
from tests.docs.pages import ROOT

BEGINS, ENDS = "<!-- generated -->", "<!-- end of generated -->"

_SETTING = re.compile(r"(?:# )?(?P<name>[a-z0-9_]+) = (?P<value>.*?)(?: +# (?P<comment>.*))?$")
_MORE = re.compile(r"#? {20,}# (?P<comment>.*)$")
_TABLE = re.compile(r"(?:# )?\[+(?P<name>[a-z_.]+)\]+$")


class Described(Struct, frozen=True):
    """A setting as ``firstopen init`` writes it: an example value in TOML, and its comment."""

    example: str
    comment: str


def settings_section() -> str:
    """Return a table for each table of ``firstopen.toml``."""
    written = described_settings()
    tables: list[tuple[str, type[Struct], str]] = [
        ("apps.*", AppSettings, "`[apps.NAME]`: one for each app."),
        ("apps.*.routes", RouteRule, "`[[apps.NAME.routes]]`: [routes](routes.md), in order."),
        (
            "apps.*.route_tests",
            RouteTest,
            "`[[apps.NAME.route_tests]]`: [checks](routes.md#checking-routes).",
        ),
        ("apps.*.ios", IosSettings, f"`[apps.NAME.ios]`: {_summary(IosSettings)}"),
        ("apps.*.android", AndroidSettings, f"`[apps.NAME.android]`: {_summary(AndroidSettings)}"),
        (
            "apps.*.webhook",
            WebhookSettings,
            "`[apps.NAME.webhook]`: which [events](webhooks.md) the app's backend gets.",
        ),
        (
            "apps.*.link_templates",
            LinkTemplateRule,
            "`[[apps.NAME.link_templates]]`: short links that the app itself [may create](links.md).",
        ),
        ("apps.*.gate", GateRule, f"`[apps.NAME.gate]`: {_summary(GateRule)} See [the gate](gate.md)."),
        ("apps.*.gate.ios", PlatformGateRule, "`[apps.NAME.gate.ios]`: what differs on iOS."),
        ("apps.*.gate.android", PlatformGateRule, "`[apps.NAME.gate.android]`: what differs on Android."),
    ]
    tables += [
        (field.name, field.type, f"`[{field.name}]`: {_summary(field.type)}")
        for field in msgspec.structs.fields(File)
        if field.name != "apps"
    ]
    return "\n\n".join(
        f"### {name.replace('.*', '')}\n\n{about} {_when(name)}\n\n{_settings_table(name, struct, written)}"
        for name, struct, about in tables
    )


def _when(table: str) -> str:
    """Return whether a running service takes changes over."""
    if table.partition(".")[0] in RELOADED:
        return "Changes take effect at once."
    return "Changes need a restart."


def described_settings() -> dict[tuple[str, str], Described]:
    """Read ``firstopen init``'s file: each setting by its table and name, commented out or not."""
    found: dict[tuple[str, str], Described] = {}
    table, last = "", ("", "")
    for line in STARTER.splitlines():
        if named := _TABLE.match(line):
            table = named["name"].replace("acme", "*")
        elif more := _MORE.match(line):
            example, comment = found[last].example, found[last].comment
            found[last] = Described(example, f"{comment} {more['comment']}".strip())
        elif setting := _SETTING.match(line):
            last = (table, setting["name"])
            found.setdefault(last, Described(setting["value"].strip(), setting["comment"] or ""))
    return found


def _settings_table(name: str, struct: type[Struct], written: dict[tuple[str, str], Described]) -> str:
    rows = []
    for field in msgspec.structs.fields(struct):
        if msgspec.inspect.is_struct_type(field.type) or (name, field.name) not in written:
            continue
        said = written[name, field.name]
        given = field.default is not msgspec.NODEFAULT and field.default not in (None, ())
        default = _toml(field.default) if given else ("required" if field.required else "")
        shown = "" if given else f" Example: `{said.example}`."
        rows.append((f"`{field.name}`", default, _bounds(field.type), f"{_sentence(said.comment)}{shown}"))
    return _table(("setting", "default", "allowed", "meaning"), rows)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _bounds(annotation: Any) -> str:
    """Return the values that a setting may have, where its type says so."""
    if get_origin(annotation) is Literal:
        return ", ".join(f'`"{choice}"`' for choice in get_args(annotation))
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, Meta) and (meta.le is not None or meta.ge is not None or meta.gt is not None):
            low = f"{meta.ge:,}" if meta.ge is not None else f"more than {meta.gt:,}"
            return f"{low} to {meta.le:,}"
    return ""


def metrics_section() -> str:
    """Return the metrics, and below them the log events."""
    rows = [
        (
            f"`{name}`",
            metric.type,
            ", ".join(f"`{label}`" for label in labels),
            _sentence(metric.documentation),
        )
        for name, metric, labels in sorted(described_metrics(), key=lambda each: each[0])
    ]
    events = [(f"`{event}`", _sentence(meaning)) for event, meaning in sorted(described_events().items())]
    return (
        f"{_table(('metric', 'type', 'labels', 'meaning'), rows)}\n\n## Log events\n\n"
        "`event` of a log line. `app` and `open_id` say which open it is about, where there is one.\n\n"
        f"{_table(('event', 'meaning'), events)}"
    )


def described_metrics() -> Iterator[tuple[str, Metric, tuple[str, ...]]]:
    """Yield every metric by the name of its series, with its labels."""
    for part in Metrics().registry._collector_to_names:
        if isinstance(part, ProcessCollector):
            continue  # prometheus_client's own
        if isinstance(part, MetricWrapperBase):
            metric, labels = next(iter(part.describe())), tuple(part._labelnames)
        else:
            metric = next(iter(part.collect()))
            labels = getattr(part, "_family", ("", "", ()))[2]
        yield f"{metric.name}_total" if metric.type == "counter" else metric.name, metric, labels


def described_events() -> dict[str, str]:
    """Return each log event with the line of meaning below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(Event))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for name, meaning in zip(body.body, body.body[1:], strict=False):
        if isinstance(name, ast.Assign) and isinstance(meaning, ast.Expr):
            found[ast.literal_eval(name.value)] = " ".join(ast.literal_eval(meaning.value).split())
    return found


def _summary(struct: type[Struct]) -> str:
    """Return what a table is for: its docstring's first line, behind the table's own name."""
    line = inspect.getdoc(struct) or ""
    return _sentence(" ".join(line.partition("\n\n")[0].split()).rpartition("``: ")[2])


def _sentence(text: str) -> str:
    text = text.replace("``", "`").replace("|", "\\|").strip()
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith((".", ":", "?")) else ".")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(re.sub(r" +", " ", f"| {' | '.join(line)} |") for line in lines)


SECTIONS: dict[str, Callable[[], str]] = {
    "docs/configuration.md": settings_section,
    "docs/metrics.md": metrics_section,
}


def rendered(page: str) -> str:
    """Return a page with its generated part anew."""
    before, _, rest = (ROOT / page).read_text().partition(BEGINS)
    _, _, after = rest.partition(ENDS)
    return f"{before}{BEGINS}\n\n{SECTIONS[page]()}\n\n{ENDS}{after}"


def toml_of_starter() -> dict[str, Any]:
    """Return ``firstopen init``'s file with every setting in force, decoded."""
    lines = []
    for line in STARTER.splitlines():
        bare = line.removeprefix("# ")
        lines.append(bare if _SETTING.match(line) or _TABLE.match(line) else "")
    return tomllib.loads("\n".join(lines))
