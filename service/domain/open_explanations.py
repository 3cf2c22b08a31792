"""Say in words how an open was decided: which evidence gave it its click, and what Dub was asked.

Nothing personal is said: of a URL, the values of its query and its fragment are hidden.
"""

import re
from collections.abc import Collection, Mapping

from msgspec import Struct

from service.domain.evidence import EvidenceType
from service.domain.match_rules import EXPLANATIONS
from service.domain.models import Match
from service.domain.trace import EvidenceTrace

MATCH_TYPES: Mapping[str, str] = {
    "deep_link": "deep link",
    "dub_id": "dub_id in the URL",
    "install_referrer": "install referrer",
    "clipboard": "clipboard",
    "touch": "touch",
    "ip": "IP address",
    "none": "none",
}
OUTCOMES: Mapping[str, str] = {
    "matched": "a route matched",
    "unlisted": "no route matched",
    "update_required": "update required",
    "default": "nothing to route",
}
SOURCES: Mapping[str, str] = {
    "dub": "Dub answered",
    "cache": "an answer that was cached",
    "stale": "Dub could not be asked: the link as it was remembered",
    "parsed": "no answer of Dub: the URL itself, or nothing",
}
MATCH_REASONS: Mapping[str, str] = {
    **{str(reason): words for reason, words in EXPLANATIONS.items()},
    "off": "matching by IP address is off for this app, or the user has not consented",
    "no_events": "Dub's click events cannot be read at the moment",
    "not_recorded": "the database did not answer in time, so no click could be claimed",
    "old_install": "the install is too old for a first launch",
    "superseded": "stronger evidence found this install's click in the meantime",
}

_BY_LINK: frozenset[EvidenceType] = frozenset({"deep_link", "install_referrer", "clipboard"})
_VALUE = re.compile(r"=[^&]+")


class DubCall(Struct, frozen=True):
    """A call to Dub that decided an open, or failed to. ``took_ms`` is in milliseconds."""

    about: str
    answer: str
    took_ms: float


def explain_match(
    match: Match, click_id: str | None, credited_to: str | None = None, *, dry: bool = False
) -> str:
    """Return a sentence that says which click the open is credited with, and why; or why with none.

    A ``dry`` run records no click at Dub, so it has none where a real open would.
    """
    evidence = MATCH_TYPES.get(match.type, match.type)
    if match.type == "none":
        return _why_none(match, credited_to)
    if click_id is None:
        if dry:
            return f"A real open would be credited with the click that Dub records for the {evidence}."
        return f"Dub recorded no click for the {evidence}."
    if match.guaranteed:
        return f"It is credited with click {click_id}, which is certain: it comes from the {evidence}."
    sure = f" with confidence {match.confidence:g}" if isinstance(match.confidence, float) else ""
    aged = f", {match.age_s} s old" if isinstance(match.age_s, int) else ""
    among = f", among {match.candidates} candidates" if isinstance(match.candidates, int) else ""
    return f"It is credited with click {click_id} by {evidence}{sure}{aged}{among}: this is not certain."


def _why_none(match: Match, credited_to: str | None) -> str:
    if isinstance(match.reason, str):
        return f"It has no click: {MATCH_REASONS.get(match.reason, match.reason)}."
    if credited_to is not None:
        return "It has no click of its own: it is a later open, credited with its install's click."
    return "It has no click."


def dub_calls(evidence: tuple[EvidenceTrace, ...]) -> list[DubCall]:
    """Return the calls to Dub's ``/track/open`` in the trace of an open.

    A link that is answered from memory, or while the circuit breaker is open, takes no time and is no call.
    """
    return [
        DubCall(MATCH_TYPES[each.type], each.detail, each.took_ms)
        for each in evidence
        if each.type in _BY_LINK
        and (each.outcome == "resolved" or (each.outcome in ("unknown", "unavailable") and each.took_ms > 0))
    ]


def without_values(url: str) -> str:
    """Return a URL with the values of its query and its fragment hidden."""
    before, hash_mark, _ = url.partition("#")
    path, question_mark, query = before.partition("?")
    return path + question_mark + _VALUE.sub("=…", query) + (f"{hash_mark}…" if hash_mark else "")


def without_query_values(params: Mapping[str, str], from_path: Collection[str]) -> dict[str, str]:
    """Return a route's params, with the values hidden of all but those that come from the URL's path."""
    return {name: value if name in from_path else "…" for name, value in params.items()}
