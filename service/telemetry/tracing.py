"""OpenTelemetry traces, enabled by the standard OTEL_* variables if ``firstopen[otel]`` is installed.

Each request has a span named by the route's template, and each call to Dub a child span. Attributes are the
route, the endpoint and the status, but no IP address, key, installId, URL, query or body. The instrumentation
of OpenTelemetry records addresses and whole URLs, so this module has its own, based on the SDK.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, cast

import httpx
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACED = ("/v1/", "/track/", "/events")
_SERVER_ERROR = 500
_THROTTLED = 429
_FLUSH_S = 2  # longest wait for unsent spans at a stop
_propagator = TraceContextTextMapPropagator()

_EXPORTERS: Mapping[str, Callable[[], SpanExporter]] = {
    "otlp": OTLPSpanExporter,
    "console": ConsoleSpanExporter,
}


class Tracing:
    """Creates spans; the SDK sends them to the exporters in its own thread."""

    def __init__(self, exporters: list[SpanExporter]) -> None:
        defaults = {"service.name": "firstopen", "service.version": version("firstopen")}
        configured = OTELResourceDetector().detect().attributes
        # ``close`` waits for unsent spans; the end of the process must not wait a second time.
        self._provider = TracerProvider(
            resource=Resource.create({**defaults, **configured}), shutdown_on_exit=False
        )
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("firstopen", version("firstopen"))

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap a route so that each request gets a span, with the caller's ``traceparent`` as parent."""
        tracer = self._tracer

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            template = scope["path_template"]
            if not template.startswith(_TRACED):
                await app(scope, receive, send)
                return
            method = cast("dict[str, Any]", scope)["method"]
            with tracer.start_as_current_span(
                f"{method} {template}",
                context=_parent_of(scope),
                kind=SpanKind.SERVER,
                attributes={"http.request.method": method, "http.route": template},
                record_exception=False,  # messages may contain personal data
                set_status_on_exception=False,
            ) as span:

                async def watched(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        _note_status(span, message["status"], message["status"] >= _SERVER_ERROR)
                    await send(message)

                await app(scope, receive, watched)

        return traced

    def transport(self, inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """Wrap a transport to Dub so that each call gets a span and sends its ``traceparent``."""
        return _TracedTransport(inner, self._tracer)

    async def close(self) -> None:
        """Send unsent spans, for at most two seconds: an unreachable collector must not delay the stop."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the event loop is closed already
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=shut_down, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sent.wait(), _FLUSH_S)


def tracing_of_environment() -> Tracing:
    """Configure tracing by the OTEL_* variables; raises ``ValueError`` with the name of an invalid one."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise ValueError("OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf")
    names = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    if not _EXPORTERS.keys() >= {*names}:
        raise ValueError(f"OTEL_TRACES_EXPORTER: expected none, or some of {', '.join(_EXPORTERS)}")
    return Tracing([_EXPORTERS[name]() for name in names or ["otlp"]])


class _TracedTransport(httpx.AsyncBaseTransport):
    """Adds a span to each call. The span ends with the response (for a page of events, its head) or error.

    Traced calls use httpx's objects, which cost more time than untraced calls by ``AiohttpTransport.post``.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, tracer: Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises as the transport does."""
        caller = get_current_span()
        has_ended = isinstance(caller, ReadableSpan) and caller.end_time is not None
        path = request.url.path
        span = self._tracer.start_span(
            f"{request.method} {path}",
            context=Context() if has_ended else None,  # no child of a request that was answered already
            kind=SpanKind.CLIENT,
            links=[Link(caller.get_span_context())] if has_ended else None,
            attributes={
                "http.request.method": request.method,
                "url.path": path,
                "server.address": request.url.host,
            },
            record_exception=False,
        )
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(span))
        request.headers["traceparent"] = carrier["traceparent"]
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as exc:
            late = isinstance(exc, asyncio.CancelledError)  # the client ends a call that takes too long
            span.set_attribute("error.type", "timeout" if late else type(exc).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        else:
            status = response.status_code
            _note_status(span, status, status >= _SERVER_ERROR or status == _THROTTLED)
            return response
        finally:
            span.end()

    async def aclose(self) -> None:
        """Close the transport."""
        await self._inner.aclose()


def _parent_of(scope: Scope) -> Context:
    """Read ``traceparent``, but not ``tracestate`` and baggage, into which any caller can write any text."""
    headers = cast("dict[str, Any]", scope)["headers"]
    given = next((value for name, value in headers if name == b"traceparent"), b"")
    return _propagator.extract({"traceparent": given.decode("latin-1")}, Context())


def _note_status(span: Span, status: int, failed: bool) -> None:  # noqa: FBT001  private, with two call sites
    span.set_attribute("http.response.status_code", status)
    if failed:
        span.set_status(StatusCode.ERROR)
