"""The two lists of what differs: the service from the sandbox, and Dub's source from Dub's published pages.

DIFFERENCES: where the service is not the sandbox, on purpose, each with its reason. A test asks
``target.expects("…")`` for a value that differs, and is otherwise the same for both. The sandbox is Dub, so
its column is Dub's behaviour by ``dub-api.md``; whatever is not listed here is alike.

PAGES: where a published page says one thing and Dub's source (``dub-api.md``) does another. The source wins,
in ``schemas/`` and in the sandbox; ``make contract-sources`` holds this list against the pages.
"""

from typing import Any, NamedTuple

ANY = "*"
Known = dict[tuple[str, str, str, str], str]


class Difference(NamedTuple):
    """What each target does, and why it is not the same."""

    sandbox: Any
    service: Any
    why: str


DIFFERENCES = {
    "a lead's key after its 404": Difference(
        "burned",
        "free",
        "the service asks with mode=deferred first, which checks the click and burns nothing",
    ),
    "a repeated lead's click is looked up": Difference(
        200, 404, "deferred goes first and finds no click; Dub itself looks at the deduplication key first"
    ),
    "a click on a link that leads to no store": Difference(
        "nobody's", "the install's", "Dub notes only what its own redirect sends to a store; /events has all"
    ),
    "another install at an address that was matched": Difference(
        "the same click",
        "no click",
        "Dub forgets nothing for an hour; the service gives a click to one install",
    ),
    "a lead or sale while Dub throttles": Difference(
        429, 200, "the service has written it down, sends it later, and says so: Firstopen-Queued"
    ),
    "the 601st lead of an app in a minute": Difference(
        429,
        200,
        "the service reports what apps say with the team's secret key, which has the plan's own limit",
    ),
    "an older field name from an app": Difference(
        422, 200, "the service sends what apps say to Dub's route for backends, which takes older names"
    ),
    "a lead of an app without a clickId": Difference(
        422, 200, "the service sends it to Dub's route for backends: the customer's own click counts there"
    ),
    "an open needs a key": Difference(
        200, 401, "Dub checks none; the service finds the app by it, and with it the domains and the routes"
    ),
    "a link of somebody else's domain": Difference(
        200, 404, "Dub knows every team's links; a deep link that is not the app's own never goes to Dub"
    ),
    "a link with a slash too many": Difference(
        404, 200, "a browser that follows the link is redirected to the right one; the service asks for that"
    ),
    "an open for somebody else's domain": Difference(
        200, 403, "Dub takes any text, and * for any domain; the service holds it to the app's list"
    ),
    "events of somebody else's domain": Difference(
        200, 403, "Dub answers an empty page; the service says that the domain is not the app's"
    ),
    "a link with user info": Difference(
        200, 422, "a name or password in a URL is refused: it is a secret, or a trick"
    ),
    "seconds until a new link is known": Difference(
        0, 60, "the service remembers an unknown link for unknown_link_ttl_s: somebody's clipboard, often"
    ),
    "a key of the other kind": Difference(
        401, 403, "Dub knows no such key there; the service tells the caller which kind it takes"
    ),
    "an Authorization that is no Bearer token": Difference(
        400, 401, "dub-api.md says 401 for a missing key and nothing of this one; to the service it is none"
    ),
    "a body that is not called JSON": Difference(
        200, 415, "Dub reads any body as JSON; the service wants a JSON type, or none: no form posts to it"
    ),
    "a body over 64 KiB": Difference(
        200, 413, "Dub's host takes megabytes; every documented field at its limit fits in 64 KiB"
    ),
    "Retry-After": Difference(
        "Unix milliseconds", "seconds", "Dub's form is not HTTP's; the service's callers get HTTP's"
    ),
    "the User-Agent that an open was made with": Difference(
        "okhttp/4.12.0", "okhttp/4.12.0 firstopen-device/", "so that Dub tells devices apart"
    ),
    "whose address an open came from": Difference(
        "the phone's", "the service's", "Dub sees the service's own, unless it believes X-Real-IP"
    ),
}

_OLDER = "dub-api.md: externalId and customerId are older names of it, still accepted"
_BY_DUBS_CLIENT = "Dub's client on PyPI sends it; the page leaves it out"
_BLANK_CLICK = "dub-api.md: missing is as good as empty"
_BLANK = "dub-api.md: blank is a 422, and not left out"
_NULL_CLICK = "dub-api.md: null is as good as missing"
_EVERYWHERE = "dub-api.md: every error has all three"

# (form and endpoint of the page, part, field, what of it) -> who is right, and why it is not the page.
PAGES: Known = {
    ("openapi /track/open", "request", "", "alternatives"): "dub-api.md: neither of the two is a 422",
    ("openapi /track/open", "request", "deepLink", "minLength"): _BLANK,
    ("openapi /track/open", "request", "dubDomain", "minLength"): _BLANK,
    ("openapi /track/lead", "request", "", "alternatives"): _OLDER,
    ("openapi /track/lead", "request", "externalId", "field"): _OLDER,
    ("openapi /track/lead", "request", "customerId", "field"): _OLDER,
    ("openapi /track/lead", "request", "customerExternalId", "required"): _OLDER,
    ("openapi /track/lead", "request", "clickId", "required"): _BLANK_CLICK,
    ("openapi /track/lead", "request", "clickId", "nullable"): _NULL_CLICK,
    ("openapi /track/lead", "request", "eventName", "pattern"): "dub-api.md: counted after trimming",
    ("openapi /track/lead", "request", "eventQuantity", "type"): "dub-api.md: an integer from 1 to 100",
    ("openapi /track/lead", "request", "eventQuantity", "minimum"): "dub-api.md: an integer from 1 to 100",
    ("openapi /track/lead", "request", "eventQuantity", "maximum"): "dub-api.md: an integer from 1 to 100",
    ("text /track/lead", "request", "externalId", "field"): _OLDER,
    ("text /track/lead", "request", "customerId", "field"): _OLDER,
    ("text /track/lead", "request", "customerExternalId", "required"): _OLDER,
    ("text /track/lead", "request", "clickId", "required"): _BLANK_CLICK,
    ("text /track/lead", "request", "customerEmail", "example"): "the text of the page hides the address",
    ("table /track/lead", "request", "customerExternalId", "field"): "an older page: the newer ones have it",
    ("table /track/lead", "request", "customerId", "field"): _OLDER,
    ("table /track/lead", "request", "externalId", "required"): _OLDER,
    ("table /track/lead", "request", "clickId", "required"): _BLANK_CLICK,
    (ANY, "403", "error.code", "enum"): "dub-api.md: 403 is forbidden or exceeded_limit",
    (ANY, ANY, "error.doc_url", "required"): _EVERYWHERE,
    ("text /events", "request", "event", "required"): "the page gives it a default, too",
    ("text /events", "request", "interval", "enum"): (
        "dub-api.md: 1h and all_unfiltered are refused; Dub's client on PyPI knows mtd and qtd, too"
    ),
    ("text /events", "click", "timestamp", "example"): "dub-api.md: a JavaScript date as text, not ISO 8601",
    ("text /events", "request", "interval", "default"): "dub-api.md: 30d",
    ("text /events", "request", "limit", "default"): "dub-api.md: 100",
    ("text /events", "request", "trigger", "x-values"): "dub-api.md: deeplink is one, too",
    ("text /events", "request", "programId", "field"): _BY_DUBS_CLIENT,
    ("text /events", "request", "qr", "field"): _BY_DUBS_CLIENT,
    ("text /events", "request", "eventName", "field"): _BY_DUBS_CLIENT,
    ("text /events", "request", "partnerTagId", "field"): _BY_DUBS_CLIENT,
    ("text /events", "request", "tagIds", "field"): _BY_DUBS_CLIENT,
    ("text /events", "request", "order", "field"): _BY_DUBS_CLIENT,
    ("text /events", "click", "click", "example"): "shortened: dub-api.md has timestamp, ua and trigger, too",
}
