"""Traces, for whoever sets the standard OTEL_* variables and has installed ``firstopen[otel]``.

A span for each request, by its route's template, and one for each call to Dub, as its child. They say which
route, which endpoint, what status: no address, key, installId, URL, query or body. The libraries'
own middleware puts addresses and whole URLs into attributes; so this one is ours, over their SDK.
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
_REST_S = 2  # at a stop
_propagator = TraceContextTextMapPropagator()

_EXPORTERS: Mapping[str, Callable[[], SpanExporter]] = {
    "otlp": OTLPSpanExporter,
    "console": ConsoleSpanExporter,
}


class Tracing:
    """Makes spans, and hands them to exporters in a thread of the SDK's."""

    def __init__(self, exporters: list[SpanExporter]) -> None:
        ours = {"service.name": "firstopen", "service.version": version("firstopen")}
        said = OTELResourceDetector().detect().attributes
        # ``close`` waits for what has not left yet; the end of the process should not do so again.
        self._provider = TracerProvider(resource=Resource.create({**ours, **said}), shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("firstopen", version("firstopen"))

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap a route: each of its requests gets a span, whose parent is the caller's ``traceparent``."""
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
                record_exception=False,  # messages may quote what a person sent
                set_status_on_exception=False,
            ) as span:

                async def watched(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        _note_status(span, message["status"], message["status"] >= _SERVER_ERROR)
                    await send(message)

                await app(scope, receive, watched)

        return traced

    def transport(self, inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """Wrap a way to Dub: each call gets a span, and takes its ``traceparent`` along."""
        return _TracedTransport(inner, self._tracer)

    async def close(self) -> None:
        """Send what is left, if somebody takes it soon; a collector that is away delays no stop."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def send_the_rest() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(gone.set)

        threading.Thread(target=send_the_rest, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone.wait(), _REST_S)


def tracing_of_environment() -> Tracing:
    """Build what the OTEL_* variables ask for; raises ``ValueError``, which names the variable."""
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
    """A call's span ends with Dub's answer (a page of events: its head), or with what came instead.

    Traced calls go through httpx's objects, which cost more than ``AiohttpTransport.post`` without them.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, tracer: Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises as the transport does."""
        caller = get_current_span()
        over = isinstance(caller, ReadableSpan) and caller.end_time is not None
        path = request.url.path
        span = self._tracer.start_span(
            f"{request.method} {path}",
            context=Context() if over else None,  # begun by a request that was answered since: no part of it
            kind=SpanKind.CLIENT,
            links=[Link(caller.get_span_context())] if over else None,
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
    """Read ``traceparent``, and no ``tracestate`` or baggage: anybody may write anything into those."""
    headers = cast("dict[str, Any]", scope)["headers"]
    given = next((value for name, value in headers if name == b"traceparent"), b"")
    return _propagator.extract({"traceparent": given.decode("latin-1")}, Context())


def _note_status(span: Span, status: int, failed: bool) -> None:  # noqa: FBT001  what it says of the span
    span.set_attribute("http.response.status_code", status)
    if failed:
        span.set_status(StatusCode.ERROR)
