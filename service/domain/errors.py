"""What can go wrong, drawn; ``api.problems`` has the one table from these to statuses.

FirstopenError
├── CallerError              the caller's doing: a 4xx that says what to change
│   ├── MalformedBody        not JSON, or nested too deep
│   ├── BodyTooLarge
│   ├── UnsupportedBody      a content type that is not JSON
│   ├── InvalidField         a field is missing, of the wrong type or out of bounds
│   ├── MissingKey           no usable API key
│   ├── WrongKey             a key that no app claims
│   ├── WrongKind            a key of the other kind, or one that may not do this
│   ├── ForeignDomain        a domain that is not one of the app's
│   ├── UnknownLink          on Dub's own wire: its 404
│   ├── NotFound          an openId, installId or leadId that this app never got, or that is forgotten
│   ├── OverBudget           more analytics calls than are allowed
│   ├── TooManyWaiting       more leads wait for opens that have not arrived than are kept
│   └── RateLimited          more requests with this key, or from this address, than are allowed
├── NotConfigured            the app's settings lack what this needs
├── StoreFailed              the disk does not take what must not be lost
├── NoOpen                   the install that a lead names has reported no open yet
├── DubRefused               Dub's own 4xx for a lead, a sale or a question about events
├── DubLinkNotFound              Dub's 404: final, an answer like any other
└── DubUnavailable           no usable answer from Dub in time: the open is answered degraded
    ├── DubTimedOut
    ├── DubUnreachable       refused (by Dub or a proxy), reset, TLS
    ├── DubThrottled         a 429, or the time that an earlier one asked for
    ├── DubFailed            a status that is no answer, as ``status``
    ├── InvalidDubResponse           an answer that is no HTTP, too large, or does not read as Dub's
    ├── LinkFailing          Dub answered badly for this link a moment ago: it was not asked again
    ├── CircuitOpen          the circuit breaker is open: Dub was not asked
    └── BulkheadFull           too many calls in flight: Dub was not asked
"""

from service.domain.rate_limit_status import By, RateLimitStatus

_UNAVAILABLE = 503
_PASSING = frozenset({502, _UNAVAILABLE, 504})  # a gateway's word that nobody answered: asking again is safe


class FirstopenError(Exception):
    """The root of everything that firstopen raises on purpose."""


class CallerError(FirstopenError):
    """The caller's doing; the message goes into the answer, so it names fields and never values."""


class MalformedBody(CallerError):
    """The body is not JSON."""


class BodyTooLarge(CallerError):
    """The body is over its limit."""


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
    """No app claims the API key."""


class WrongKind(CallerError):
    """A key of the other kind (publishable or server), or one that may not do this."""


class CompatLinkNotFound(CallerError):
    """A deep link that Dub does not know, on Dub's own wire: its message repeats the link, as Dub's does."""


class OverBudget(CallerError):
    """More analytics calls than are allowed."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many analytics calls for this workspace; try again a little later")
        self.retry_after_s = retry_after_s


class TooManyWaiting(CallerError):
    """More leads of an app wait for opens that have not arrived than are kept."""

    retry_after_s = 60.0


class RateLimited(CallerError):
    """More requests with a key, or from an address, than are allowed; ``standing`` says until when."""

    def __init__(self, by: By, period_s: int, rate_limit_status: RateLimitStatus) -> None:
        subject = "with this key" if by == "key" else "from this address"
        unit = "second" if period_s == 1 else f"{period_s} seconds"
        super().__init__(f"rate limit: {rate_limit_status.limit} requests per {unit} {subject}")
        self.rate_limit_status = rate_limit_status


class ForeignDomain(CallerError):
    """A domain that is not one of the app's."""


class NotFound(CallerError):
    """An openId that this app never got, or that is forgotten by now."""


class NotConfigured(FirstopenError):
    """The app's settings lack what this needs."""


class StoreFailed(FirstopenError):
    """The disk does not take what must not be lost."""


class NoOpen(FirstopenError):
    """The install that a lead names has reported no open yet."""


class DubRefused(FirstopenError):
    """Dub's own error for what was asked; ``code`` and ``message`` are Dub's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message


class DubLinkNotFound(FirstopenError):
    """Dub knows no such link: final, and an answer like any other."""


class DubUnavailable(FirstopenError):
    """Dub gave no usable answer in time; its message is safe to log.

    ``retry_in_s`` is after how many seconds asking once more is worth it, within one caller's budget;
    ``None`` if it is not. ``is_outage``: it cost time or Dub could not be reached, which the circuit breaker
    counts; a quick bad answer says something about its own call only.
    """

    retry_in_s: float | None = None
    is_outage = False


class DubTimedOut(DubUnavailable):
    """The time for this call ran out."""

    is_outage = True


class DubUnreachable(DubUnavailable):
    """The connection was refused, reset or could not be secured; ``answered``: after an answer had begun."""

    is_outage = True

    def __init__(self, detail: str, *, answered: bool = False) -> None:
        super().__init__(detail)
        if not answered:
            self.retry_in_s = 0


class DubThrottled(DubUnavailable):
    """Dub's 429; ``retry_after_s`` is how long it asked us to wait."""

    is_outage = True

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"status 429, for {retry_after_s:.0f} s")
        self.retry_after_s = self.retry_in_s = retry_after_s


class DubFailed(DubUnavailable):
    """A status that is neither an answer nor a well-formed 404."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.is_outage = status == _UNAVAILABLE
        if status in _PASSING:
            self.retry_in_s = 0


class InvalidDubResponse(DubUnavailable):
    """An answer that is no HTTP, is over a bound, or does not read as Dub's."""


class LinkFailing(DubUnavailable):
    """Dub answered badly for this link a moment ago, more than once: it is left alone for a while."""


class CircuitOpen(DubUnavailable):
    """The circuit breaker is open: Dub was not asked."""


class BulkheadFull(DubUnavailable):
    """Too many calls are in flight for this one to get its turn in time: Dub was not asked."""
