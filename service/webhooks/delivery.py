"""Deliver the outbox's webhooks to the backends of apps.

What can go wrong: a backend is away for days (its webhooks are retried for three days, each at least every 15
minutes; then they are dead letters); it asks for a pause (429 and 503 with Retry-After stop all webhooks to
it for as long, up to 15 minutes); an app has no endpoint any more (its webhooks wait, and expire); it
redirects (a failure: the URL must be changed in the configuration).
"""

import random
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from msgspec import Struct

from service.domain.errors import WebhookFailed
from service.domain.outbox_entries import (
    DELAY_MAX_S,
    DeadLetter,
    Delivered,
    DeliveryResult,
    Entry,
    RetryLater,
)
from service.domain.webhooks import Endpoint
from service.telemetry import Event, Log, Metrics
from service.webhooks.endpoint_health import EndpointHealth
from service.webhooks.sender import Sent, WebhookSender

_BACKOFF_MIN_S = 5.0
_SUCCESS = range(200, 300)
_GONE = 410
_ASKS_TO_WAIT = frozenset({429, 503})
_NEVER_S = 3600.0

BodyOf = Callable[[Entry], Awaitable[bytes | RetryLater | None]]


class _Typed(Struct, frozen=True):
    """A webhook's body, of which only the type is read."""

    type: str


_decode = msgspec.json.Decoder(_Typed).decode


class WebhookDelivery:
    """Sends webhooks to each app's endpoint, and pauses endpoints that fail.

    ``body_of`` returns what to send for an entry: None if there is nothing to send any more. ``is_back`` is
    called with an app's name when its endpoint takes webhooks again. ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        *,
        endpoints: Mapping[str, Endpoint],
        sender: WebhookSender,
        body_of: BodyOf,
        is_back: Callable[[str], None],
        clock: Callable[[], float],
        log: Log,
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._sender = sender
        self._body_of = body_of
        self._is_back = is_back
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._jitter = jitter
        self._health: dict[str, tuple[Endpoint | None, EndpointHealth]] = {}

    def retry_in_s(self, app: str) -> float:
        """Return for how many seconds no webhook of this app may be sent; 0 if one may."""
        return self._health_of(app).retry_in_s() if app in self._endpoints else _NEVER_S

    def take_max(self, app: str) -> int | None:
        """Return how many of the app's webhooks may be taken from the outbox at once; None: any number."""
        return self._health_of(app).take_max()

    def problems(self) -> list[str]:
        """Return which endpoints fail, one message for each."""
        failing = [app for app in self._endpoints if self._health_of(app).is_failing]
        return [f"apps.{app}.webhook: the endpoint fails; its events wait" for app in failing]

    async def deliver(self, entry: Entry) -> DeliveryResult:
        """Send a webhook once, and return the result; raises ``StoreFailed``."""
        health = self._health_of(entry.app)
        health.begun()
        try:
            body = await self._body_of(entry)
            if body is None:
                return Delivered()
            if isinstance(body, RetryLater):
                return body
            return await self._send(entry, body, health)
        finally:
            health.ended()

    async def _send(self, entry: Entry, body: bytes, health: EndpointHealth) -> DeliveryResult:
        endpoint, event = self._endpoints.get(entry.app), _decode(body).type
        if endpoint is None:
            return RetryLater(WebhookFailed(f"apps.{entry.app}.webhook is not configured"), DELAY_MAX_S)
        try:
            sent = await self._sender.send(endpoint, entry.id, body)
        except WebhookFailed as exc:
            return self._failed(entry, event, endpoint, health, exc)
        if sent.status not in _SUCCESS and sent.status != _GONE:
            error = WebhookFailed(f"status {sent.status}")
            return self._failed(entry, event, endpoint, health, error, _pause_s(sent))
        if health.succeeded():
            self._log.info(Event.WEBHOOKS_RESUMED, app=entry.app, host=endpoint.host)
            self._is_back(entry.app)
        outcome = "delivered" if sent.status != _GONE else "dead"
        self._metrics.webhooks.add(entry.app, event, outcome)
        if sent.status == _GONE:
            return DeadLetter("the endpoint answered 410: it takes no webhooks any more")
        return Delivered()

    def _failed(
        self,
        entry: Entry,
        event: str,
        endpoint: Endpoint,
        health: EndpointHealth,
        error: WebhookFailed,
        pause_s: float | None = None,
    ) -> RetryLater:
        was_failing = health.is_failing
        health.failed(pause_s)
        if health.is_failing and not was_failing:
            self._log.warning(Event.WEBHOOKS_PAUSED, app=entry.app, host=endpoint.host, reason=str(error))
        self._metrics.webhooks.add(entry.app, event, "retried")
        delay_s = min(_BACKOFF_MIN_S * 2.0 ** min(entry.attempts, 16), DELAY_MAX_S)
        return RetryLater(error, max(delay_s * (0.5 + self._jitter() / 2), pause_s or 0))

    def _health_of(self, app: str) -> EndpointHealth:
        """Return the health of an app's endpoint. Another URL or secret begins anew, and is tried at once."""
        endpoint, known = self._endpoints.get(app), self._health.get(app)
        if known is not None and known[0] == endpoint:
            return known[1]
        health = EndpointHealth(self._clock)
        self._health[app] = (endpoint, health)
        if known is not None:
            self._is_back(app)
        return health


def _pause_s(sent: Sent) -> float | None:
    """Return for how long the endpoint asks to wait, as far as that is honoured."""
    if sent.status not in _ASKS_TO_WAIT or sent.retry_after_s is None:
        return None
    return min(sent.retry_after_s, DELAY_MAX_S)
