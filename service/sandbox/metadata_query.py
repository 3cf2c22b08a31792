"""`/events?query=`: search leads and sales by their metadata, in a subset of Dub's syntax.

    metadata['plan']:'pro'                      a key has this value (`=` is the same)
    metadata.seats >= 5 AND metadata.plan != 'free'    every term must match; > >= < <= compare numbers
    pro                                         any key has this value

Values are compared as text, ignoring case. `OR`, parentheses and nested keys are refused, so that a test does
not mistake an unsupported search for one without results.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec

from service.sandbox.errors import unprocessable

QUERY_MAX_CHARS = 10_000
_KEY = r"metadata(?:\[(['\"])(?P<quoted>(?:(?!\1).)+)\1\]|\.(?P<plain>[\w-]+))"
_VALUE = r"(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<bare>[^\s'\"()]+))"
_TERM = re.compile(rf"{_KEY}\s*(?P<op>!=|>=|<=|[:=<>])\s*{_VALUE}")
_AND = re.compile(r"\s+AND\s+", re.IGNORECASE)


class Term(msgspec.Struct, frozen=True):
    """One comparison; `key` None means any key."""

    key: str | None
    op: str
    value: str

    def holds(self, metadata: dict[str, Any]) -> bool:
        """Return True if the metadata matches this term."""
        if self.key is None:
            return any(_text(value) == self.value for value in metadata.values())
        found = metadata.get(self.key)
        if self.op in {":", "="}:
            return found is not None and _text(found) == self.value
        if self.op == "!=":
            return found is None or _text(found) != self.value
        return _compares(found, self.op, self.value)


@lru_cache(maxsize=256)
def parse_query(text: str) -> tuple[Term, ...]:
    """Parse a search; raises a 422 if it is outside the subset or too long."""
    if len(text) > QUERY_MAX_CHARS:
        raise unprocessable(f"query: expected at most {QUERY_MAX_CHARS} characters")
    if "metadata" not in text:
        return (Term(None, "=", text.strip().casefold()),)
    terms = []
    for part in _AND.split(text.strip()):
        term = _TERM.fullmatch(part)
        if term is None:
            raise unprocessable("query: expected metadata['key']:'value', several joined by AND")
        value = next(found for found in term.group("single", "double", "bare") if found is not None)
        terms.append(Term(term["quoted"] or term["plain"], term["op"], value.casefold()))
    return tuple(terms)


def metadata_matches(stored: str | None, query: str) -> bool:
    """Return True if stored metadata matches a valid search."""
    metadata = msgspec.json.decode(stored, type=dict[str, Any]) if stored else {}
    return all(term.holds(metadata) for term in parse_query(query))


def _text(value: Any) -> str:
    """Return a value as in JSON, strings without quotes, for comparison without case."""
    return (value if isinstance(value, str) else msgspec.json.encode(value).decode()).casefold()


def _compares(found: Any, op: str, value: str) -> bool:
    try:
        left, right = float(found), float(value)
    except (TypeError, ValueError):
        return False
    return {">": left > right, ">=": left >= right, "<": left < right, "<=": left <= right}[op]
