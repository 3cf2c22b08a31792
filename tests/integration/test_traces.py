"""OpenTelemetry traces: what a span says, whose child it is, and that there is none unless asked for."""

import json
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, use_span

from service.app import create_app
from service.config.settings import SettingsError, parse
from service.telemetry import tracing
from tests.process import free_ports, started
from tests.support import ANNA, CONFIG, ENV, FB_PROMO, KEY, SERVER_KEY, FakeClock, FakeDub, Service, running

Traced = Callable[[], AbstractAsyncContextManager[Service]]

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01"
LEAD = {"eventName": "Sign up", "customerExternalId": "customer-anna", "clickId": "d0UtZqE0BZuBPrJS"}
ON = {"OTEL_TRACES_EXPORTER": "console"}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Put what was sent to the console into memory instead."""
    exporter = InMemorySpanExporter()
    monkeypatch.setitem(tracing._EXPORTERS, "console", lambda: exporter)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    return exporter


@pytest.fixture
def traced(exported: InMemorySpanExporter, dub: FakeDub, clock: FakeClock) -> Traced:
    assert not exported.get_finished_spans()

    @asynccontextmanager
    async def serve() -> AsyncIterator[Service]:
        app = create_app(parse(CONFIG, {**ENV, **ON}), transport=dub, clock=clock, unix_time=clock.unix_time)
        async with running(app) as service:
            yield service

    return serve


def named(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, [span.name for span in spans]
    return found[0]


def trace_of(span: ReadableSpan) -> str:
    assert span.context
    return f"{span.context.trace_id:032x}"


def id_of(span: ReadableSpan) -> str:
    assert span.context
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


async def test_an_open_is_two_spans(traced: Traced, exported: InMemorySpanExporter, dub: FakeDub) -> None:
    """The request is the caller's child and Dub's call the request's, in one trace that goes on to Dub."""
    async with traced() as service:
        await service.open(FB_PROMO, install_id=ANNA, headers={"traceparent": SAMPLED})
    request = named(exported.get_finished_spans(), "POST /v1/opens")
    call = named(exported.get_finished_spans(), "POST /track/open")
    assert (trace_of(request), parent_of(request)) == (TRACE_ID, PARENT_ID)
    assert (trace_of(call), parent_of(call)) == (TRACE_ID, id_of(request))
    assert (request.kind, call.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert dub.requests[0].headers["traceparent"] == f"00-{TRACE_ID}-{id_of(call)}-01"
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/opens",
        "http.response.status_code": 200,
    }
    assert call.attributes == {
        "http.request.method": "POST",
        "url.path": "/track/open",
        "server.address": "api.dub.co",
        "http.response.status_code": 200,
    }


async def test_a_caller_that_is_not_sampled_is_not(
    traced: Traced, exported: InMemorySpanExporter, dub: FakeDub
) -> None:
    """A ``traceparent`` that says no leaves no span, and says no to Dub; without one a trace begins here."""
    async with traced() as service:
        await service.open(FB_PROMO, install_id=ANNA, headers={"traceparent": SAMPLED[:-2] + "00"})
        assert dub.requests[0].headers["traceparent"].startswith(f"00-{TRACE_ID}-")
        assert dub.requests[0].headers["traceparent"].endswith("-00")
        await service.open(FB_PROMO, install_id="install-ben")
    spans = exported.get_finished_spans()
    assert [span.name for span in spans] == ["POST /track/open", "POST /v1/opens"]
    assert named(spans, "POST /v1/opens").parent is None


async def test_a_lead_is_its_requests_child(
    traced: Traced, exported: InMemorySpanExporter, dub: FakeDub
) -> None:
    """What the outbox sends for a caller who waits is part of that caller's trace."""

    async def credit(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"click": {"id": "x"}, "link": {}, "customer": {}})

    dub.script = credit
    async with traced() as service:
        await service.post("/v1/leads", json=LEAD)
    request = named(exported.get_finished_spans(), "POST /v1/leads")
    assert {parent_of(span) for span in exported.get_finished_spans() if span.kind is SpanKind.CLIENT} == {
        id_of(request)
    }


async def test_spans_name_nobody(traced: Traced, exported: InMemorySpanExporter, dub: FakeDub) -> None:
    """No key, address, install, User-Agent, URL, query, body or id is in any span, whatever was asked."""

    async def page(request: httpx.Request) -> httpx.Response:
        status = 200 if request.url.path == "/events" else 404
        return httpx.Response(status, json=[] if status == 200 else {"error": {"code": "not_found"}})

    secrets = {"X-Forwarded-For": "203.0.113.7", "User-Agent": "Secret/1", "traceparent": SAMPLED,
               "tracestate": "secret=1", "baggage": "secret=1"}  # fmt: skip
    async with traced() as service:
        link = "https://acme.link/fb-promo?ref=secret"
        answer = await service.open(link, install_id="install-secret", headers=secrets)
        await service.recall(answer.open_id)
        dub.script = page
        await service.get("/events?customerId=secret", headers={"Authorization": f"Bearer {SERVER_KEY}"})
        await service.post(
            "/v1/leads?secret=1", json={**LEAD, "customerExternalId": "secret"}, headers=secrets
        )
        await service.post("/v1/opens", json={"deepLink": link}, headers={"Authorization": "Bearer secret"})
        for path in ("/health/ready", "/metrics", "/v2/secret"):
            await service.get(path)
    spans = exported.get_finished_spans()
    assert {span.name for span in spans} >= {"GET /v1/opens/{openId}", "GET /events", "POST /track/lead"}
    assert not {
        span.name for span in spans if span.name.startswith(("GET /health", "GET /metrics", "GET /v2"))
    }
    text = "\n".join(span.to_json() for span in spans)
    for secret in (
        "secret",
        "Secret",
        "203.0.113.7",
        answer.open_id,
        answer.click_id or "?",
        KEY,
        SERVER_KEY,
    ):
        assert secret not in text
    assert not [span.name for span in spans if span.events]
    assert all("baggage" not in each.headers and "tracestate" not in each.headers for each in dub.requests)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (httpx.Response(500), {"http.response.status_code": 500}),
        (httpx.Response(429), {"http.response.status_code": 429}),
        (ConnectionResetError("secret"), {"error.type": "ConnectionResetError"}),
    ],
)
async def test_a_call_says_what_came_of_it(
    traced: Traced,
    exported: InMemorySpanExporter,
    dub: FakeDub,
    outcome: httpx.Response | Exception,
    said: dict[str, Any],
) -> None:
    """Dub's failure is its call's error, and not that of the request, which was answered."""

    async def fail(_: httpx.Request) -> httpx.Response:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    dub.script = fail
    async with traced() as service:
        await service.open(FB_PROMO, install_id=ANNA)
    calls = [span for span in exported.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert calls
    for call in calls:
        assert call.status.status_code is StatusCode.ERROR
        assert call.attributes
        assert said.items() <= call.attributes.items()
        assert "secret" not in call.to_json()
    assert named(exported.get_finished_spans(), "POST /v1/opens").status.status_code is StatusCode.UNSET


async def test_a_call_that_outlives_its_request_is_no_part_of_it(
    exported: InMemorySpanExporter, dub: FakeDub
) -> None:
    """A task that a request began may call Dub for long after: such a call begins a trace, and names it."""
    made = tracing.Tracing([exported])
    transport = made.transport(dub)
    request = httpx.Request("POST", "https://api.dub.co/track/open", json={"deepLink": FB_PROMO},
                            headers={"User-Agent": "x"})  # fmt: skip
    span = made._tracer.start_span("POST /v1/opens")
    with use_span(span):
        span.end()
        await transport.handle_async_request(request)
    await made.close()
    call = named(exported.get_finished_spans(), "POST /track/open")
    assert call.parent is None
    assert [link.context for link in call.links] == [span.get_span_context()]


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {**ON, "OTEL_SDK_DISABLED": "true"},
    ],
)
async def test_off_is_not_there(dub: FakeDub, env: dict[str, str]) -> None:
    """Unless the OTEL_* variables ask for traces there is no middleware, and nothing more goes to Dub."""
    app = create_app(parse(CONFIG, {**ENV, **env}), transport=dub)
    async with running(app) as service:
        await service.open(FB_PROMO, install_id=ANNA, headers={"traceparent": SAMPLED})
    assert "traceparent" not in dub.requests[0].headers
    assert not app.middleware


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_an_endpoint_asks_for_traces(name: str) -> None:
    """A collector's address is enough."""
    assert parse(CONFIG, {**ENV, name: "http://127.0.0.1:4318"}).tracing
    assert not parse(CONFIG, ENV).tracing


def test_traces_without_the_extra_stop_the_boot(monkeypatch: pytest.MonkeyPatch, dub: FakeDub) -> None:
    """The message says what to install."""
    monkeypatch.delitem(sys.modules, "service.telemetry.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install 'firstopen\[otel\]'"):
        create_app(parse(CONFIG, {**ENV, **ON}), transport=dub)


@pytest.mark.parametrize(
    ("name", "wrong"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
def test_what_is_not_there_stops_the_boot(
    monkeypatch: pytest.MonkeyPatch, dub: FakeDub, name: str, wrong: str
) -> None:
    """The message is the variable and what was expected."""
    monkeypatch.setenv(name, wrong)
    with pytest.raises(SettingsError, match=f"^{name}: expected "):
        create_app(parse(CONFIG, {**ENV, **ON}), transport=dub)


class Collector(HTTPServer):
    """Takes spans as OTLP over HTTP."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), _Taker)


class _Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf":
            assert isinstance(self.server, Collector)
            self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def opened_once(endpoint: str, cwd: Path) -> float:
    """Serve the demo with traces for one open, and return how many seconds its stop took."""
    port = free_ports(2)
    env = {"FIRSTOPEN_PORT": str(port), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
           "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}  # fmt: skip
    with started("serve", env=env, cwd=cwd) as process:
        process.ready(port)
        body = json.dumps({"deepLink": f"http://acme.localhost:{port + 1}/fb-promo", "installId": ANNA})
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        assert (
            httpx.post(f"http://127.0.0.1:{port}/v1/opens", content=body, headers=headers).status_code == 200
        )
        began = time.monotonic()
        assert process.stop(signal.SIGINT) == 0
        return time.monotonic() - began


def test_a_collector_hears_of_it(collector: Collector, tmp_path: Path) -> None:
    """A real process sends its spans by OTLP, at the latest when it stops, under its name."""
    opened_once(f"http://127.0.0.1:{collector.server_port}", tmp_path)
    resources = [each for request in collector.received for each in request.resource_spans]
    about = {each.key: each.value.string_value for each in resources[0].resource.attributes}
    assert (about["service.name"], about["deployment.environment"]) == ("firstopen", "test")
    spans = [span for each in resources for scope in each.scope_spans for span in scope.spans]
    by_name = {span.name: span for span in spans}
    assert by_name.keys() == {"POST /v1/opens", "POST /track/open"}
    assert by_name["POST /track/open"].parent_span_id == by_name["POST /v1/opens"].span_id


def test_a_collector_that_is_away_delays_no_stop(tmp_path: Path) -> None:
    """Opens are answered, and what nobody takes within two seconds is let go."""
    assert opened_once(f"http://127.0.0.1:{free_ports()}", tmp_path) < 8
