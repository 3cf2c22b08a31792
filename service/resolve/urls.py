"""URLs as text: which query parameters are Dub's own, and which are handed on.

What can go wrong: a link's password (``pw``) that reaches the app, a log or a website; a parameter that is
removed although it only looks like one of Dub's.
"""

from urllib.parse import unquote_plus

NO_TRACK = "dub-no-track"
DUB_PARAMETERS = frozenset(
    {"skip_deeplink_preview", "qr", "redir_url", "pw", "dub-client-reference-id", NO_TRACK}
)


def without_dub_parameters(query: str) -> str:
    """Return a short link's query without the parameters that are meant for Dub; the rest stays as written.

    Dub does not hand these on to the destination either. Neither argument nor result has a leading ``?``.
    """
    if not query:
        return ""
    return "&".join(pair for pair in query.split("&") if _name_of(pair) not in DUB_PARAMETERS)


def has_parameter(query: str, name: str) -> bool:
    """Return True if a query names this parameter, with any value or none."""
    return any(_name_of(pair) == name for pair in query.split("&"))


def _name_of(pair: str) -> str:
    name = pair.partition("=")[0]
    return unquote_plus(name) if "%" in name or "+" in name else name
