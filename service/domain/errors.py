"""All errors that firstopen raises, as a tree. ``api.problems`` maps them to HTTP statuses.

FirstopenError
├── CallerError              a mistake of the caller: a 4xx whose message says what to change
│   ├── MalformedBody        not JSON, or nested too deeply
│   ├── BodyTooLarge
│   ├── UnsupportedBody      a content type that is not JSON
│   ├── InvalidField         a field is missing, of the wrong type or out of bounds
│   ├── MissingKey           no usable API key
│   ├── WrongKey             a key that belongs to no app
│   ├── WrongKind            a publishable key where a server key is needed, or the reverse
│   ├── ForeignDomain        a domain that is not one of the app's
│   ├── CompatLinkNotFound   an unknown deep link at the Dub-compatible API: answered with Dub's 404
│   ├── NotFound             an openId, installId or leadId that this app never received, or that expired
│   ├── OverBudget           too many analytics calls
│   ├── TooManyWaiting       too many leads wait for opens that have not arrived
│   ├── QuotaUsedUp          an install has created its links of the day
│   ├── TooManySessions      too many test sessions of an app are active
│   ├── TooManyWatchers      too many connections follow live opens
│   └── RateLimited          too many requests with this key or from this address
├── NotConfigured            a setting that this operation needs is missing
├── StoreFailed              the database cannot be read or written
├── LinkUnavailable          a short link is not created yet
├── NoOpen                   the install that a lead names has reported no open yet
├── OpenPending              the open that a webhook reports is not final yet
├── WebhookFailed            a backend has not taken a webhook
├── DubRefused               Dub's own 4xx for a lead, a sale or an events query
├── DubLinkNotFound          Dub's 404 for a link: final, and cached like an answer
└── DubUnavailable           no usable answer from Dub in time: the open is answered degraded
    ├── DubTimedOut
    ├── DubUnreachable       connection refused (by Dub or a proxy) or reset, or a TLS error
    ├── DubThrottled         a 429, or a call within the Retry-After of an earlier 429
    ├── DubFailed            an unexpected status, in ``status``
    ├── InvalidDubResponse   a response that is not HTTP, is too large, or does not have Dub's format
    ├── LinkFailing          Dub failed for this link repeatedly a moment ago: Dub was not called
    ├── CircuitOpen          the circuit breaker is open: Dub was not called
    └── BulkheadFull         too many calls are in flight: Dub was not called
"""

from service.domain.rate_limit_status import By, RateLimitStatus

_UNAVAILABLE = 503
_PASSING = frozenset({502, _UNAVAILABLE, 504})  # from a gateway: Dub did not answer, so a retry is safe


class FirstopenError(Exception):
    """The base class of all errors that firstopen raises."""


class CallerError(FirstopenError):
    """A mistake of the caller. The message is sent in the response, so it names fields but no values."""


class MalformedBody(CallerError):
    """The body is not JSON."""


class BodyTooLarge(CallerError):
    """The body is larger than allowed."""


class UnsupportedBody(CallerError):
    """The body's content type is not JSON."""


class InvalidField(CallerError):
    """A field is missing, of the wrong type or out of bounds."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class MissingKey(CallerError):
    """No usable API key came with the request."""


class WrongKey(CallerError):
    """The API key belongs to no app."""


class WrongKind(CallerError):
    """The key's kind (publishable or server) does not allow this request."""


class CompatLinkNotFound(CallerError):
    """The deep link of a Dub-compatible request is unknown to Dub. The message contains it, as Dub's does."""


class OverBudget(CallerError):
    """The workspace's analytics calls of this second are used up, or this call is scheduled for later."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many analytics calls for this workspace; try again later")
        self.retry_after_s = retry_after_s


class TooManyWaiting(CallerError):
    """Too many leads of an app wait for opens that have not arrived."""

    retry_after_s = 60.0


class QuotaUsedUp(CallerError):
    """An install has created as many links of a template as it may on one day."""

    def __init__(self, per_day: int, retry_after_s: float) -> None:
        super().__init__(f"installId: has created {per_day} links of this template today")
        self.retry_after_s = retry_after_s


class TooManySessions(CallerError):
    """Too many test sessions of an app are active."""


class TooManyWatchers(CallerError):
    """Too many connections follow the live opens of this replica."""

    retry_after_s = 10.0


class RateLimited(CallerError):
    """Too many requests with a key or from an address; ``rate_limit_status`` says for how long."""

    def __init__(self, by: By, period_s: int, rate_limit_status: RateLimitStatus) -> None:
        subject = "with this key" if by == "key" else "from this address"
        unit = "second" if period_s == 1 else f"{period_s} seconds"
        super().__init__(f"rate limit: {rate_limit_status.limit} requests per {unit} {subject}")
        self.rate_limit_status = rate_limit_status


class ForeignDomain(CallerError):
    """A domain that is not one of the app's."""


class NotFound(CallerError):
    """An id that this app never received, or that was deleted after the retention time."""


class NotConfigured(FirstopenError):
    """A setting that this operation needs is missing."""


class StoreFailed(FirstopenError):
    """The database cannot be read or written."""


class LinkUnavailable(FirstopenError):
    """A short link is not created yet, because Dub or the database has not answered in time."""

    retry_after_s = 2.0


class NoOpen(FirstopenError):
    """The install that a lead names has reported no open yet."""


class OpenPending(FirstopenError):
    """The open that a webhook reports is not final yet."""


class WebhookFailed(FirstopenError):
    """A backend has not taken a webhook: no answer, or one other than 2xx. The message is safe to log."""


class DubRefused(FirstopenError):
    """Dub answered with a 4xx error; ``code`` and ``message`` are Dub's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message


class DubLinkNotFound(FirstopenError):
    """Dub has no such link. This answer is final."""


class DubUnavailable(FirstopenError):
    """Dub gave no usable answer in time. The message is safe to log.

    ``retry_in_s`` is the delay before one retry within the caller's budget, in seconds; None if a retry
    makes no sense. ``is_outage`` is True for timeouts and connection failures, which the circuit breaker
    counts. A quick invalid answer is not counted: it may concern only this call.
    """

    retry_in_s: float | None = None
    is_outage = False


class DubTimedOut(DubUnavailable):
    """The call took longer than its timeout."""

    is_outage = True


class DubUnreachable(DubUnavailable):
    """The connection was refused or reset, or TLS failed. ``answered``: part of an answer had arrived."""

    is_outage = True

    def __init__(self, detail: str, *, answered: bool = False) -> None:
        super().__init__(detail)
        if not answered:
            self.retry_in_s = 0


class DubThrottled(DubUnavailable):
    """Dub answered 429; ``retry_after_s`` is how long Dub asks to wait."""

    is_outage = True

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"status 429, for {retry_after_s:.0f} s")
        self.retry_after_s = self.retry_in_s = retry_after_s


class DubFailed(DubUnavailable):
    """Dub answered with a status other than success or a well-formed 404."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.is_outage = status == _UNAVAILABLE
        if status in _PASSING:
            self.retry_in_s = 0


class InvalidDubResponse(DubUnavailable):
    """Dub's response is not HTTP, exceeds a limit, or does not have Dub's format."""


class LinkFailing(DubUnavailable):
    """Dub failed for this link repeatedly: it is not called for this link for a while."""


class CircuitOpen(DubUnavailable):
    """The circuit breaker is open: Dub was not called."""


class BulkheadFull(DubUnavailable):
    """Too many calls were in flight to start this one in time: Dub was not called."""
