"""Say in words why a URL lands on a screen: which pattern matches, or which is nearest and how it differs.

The words are for the people who write routes. What can go wrong: the pattern that is called the nearest is
not the one that they had in mind (differences have costs: a spelling costs less than a missing segment, and
that less than another word or another host); an app has hundreds of routes (patterns are compiled once, but
call this in a thread all the same).
"""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal, cast

import ada_url
from msgspec import Struct
from urlpattern import URLPattern

from service.domain.route_patterns import OWN, SCHEME_AS_HOST, WEB, Parts, UrlForms, forms_of, percent_decoded
from service.domain.routing import CompiledRoute, Route, Router, parse_version

_NEAR_COST = 3.9  # a pattern that differs more is not called near
_OTHER_SCHEME = 4.0
_OTHER_HOST = 3.0
_OTHER_PORT = 1.0
_OTHER_WORD = 3.0
_LIKE_WORD = 1.0  # probably mistyped
_OTHER_CASE = 0.5
_NOT_ALLOWED = 1.5  # by the regular expression of a group; or one word is short for the other
_SEGMENT = 1.5  # missing, or too many
_AT_THE_START = 0.3
_PARAMETER = 1.0
_FRAGMENT = 1.0
_ALIKE = 0.7  # ratio of common letters
_SEGMENTS_MAX = 16
_COMPILED_MAX = 4096
_SHOWN_CHARS = 60
_WORD_CHARS = 3  # a shorter text begins too many words

_PIECES = re.compile(r"/((?:\\.|\{[^{}]*\}|\((?:\\.|[^()\\]|\([^()]*\))*\)|[^/\\])*)", re.DOTALL)
_LITERAL = re.compile(r"(?:\\.|[^\\:*(){}?+])*", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_GROUP = re.compile(r"\((?:\\.|[^()\\]|\([^()]*\))*\)", re.DOTALL)
_ANY = re.compile(r":[A-Za-z_$][\w$]*|\*")  # a group that any segment matches
_REPEATS = re.compile(r"(?<!\\)[*+?{]")  # outside of a regular expression: no segment, or several

_Component = Literal["hostname", "port", "pathname", "hash"]
Outcome = Literal["taken", "too_new", "later", "differs"]


class Difference(Struct, frozen=True):
    """How a pattern differs from a URL. ``words`` continue a sentence: ``which`` and then this."""

    words: str
    cost: float
    is_far: bool = False  # the two have nothing in common


class Verdict(Struct, frozen=True):
    """Whether a route takes a URL, and in words why, or why not."""

    route: CompiledRoute
    outcome: Outcome
    words: str


def with_scheme(url: str) -> str:
    """Return a URL as a person typed it, with ``https://`` if it has no scheme (``acme.com/product/1``)."""
    if "://" not in url and "." in url.partition("/")[0] and ":" not in url:
        return f"https://{url}"
    return url


def explain_route(
    router: Router,
    route: Route,
    *,
    destination: str | None,
    app_version: str | None,
    shown: str | None = None,
) -> str:
    """Return a sentence that says where a URL lands, and why.

    ``route`` is what ``router`` returned; ``destination`` is the URL that was routed, before it was
    normalised, None if there was none. ``shown`` is how the normalised URL is written in the sentence.
    """
    return f"Landed on {route.screen} because {_because(router, route, destination, app_version, shown)}."


def verdicts(router: Router, url: str, app_version: str | None) -> list[Verdict]:
    """Return for each route of an app whether it takes a URL, which must be the route's own, and why not."""
    target, found = forms_of(url), router.first_match(url)
    winner = None if found is None else found[0]
    version = parse_version(app_version) if app_version else None
    return [_verdict(route, winner, target, version) for route in router.routes]


def nearest(router: Router, url: str) -> tuple[CompiledRoute, str] | None:
    """Return the route whose pattern differs least from a URL, and how it differs; None if none is near.

    Of patterns that differ as much, it is the one with more of the URL's words, then the first.
    """
    target = forms_of(url)
    words = set(_segments(_split(target.forms[0][0])[3]))
    best: tuple[float, int] = (_NEAR_COST, 0)
    found: tuple[CompiledRoute, str] | None = None
    for route in router.routes:
        different = differences(route, target)
        if not different or any(each.is_far for each in different):
            continue
        rank = (_cost(different), -len(words.intersection(_segments(route.pattern.parts.path))))
        if rank < best:
            best, found = rank, (route, _joined([each.words for each in different]))
    return found


def why_unlisted(router: Router, url: str, shown: str | None = None) -> str:
    """Return why no route takes a URL."""
    written = url if shown is None else shown
    if not router.routes:
        return f"the app has no routes, so {written} is not one of its screens"
    near = nearest(router, url)
    if near is not None:
        return f"no pattern covers {written}: the nearest is {near[0].rule.pattern}, which {near[1]}"
    return f"no pattern covers {written}, and none is near it"


def about_version(minimum: str | None, app_version: str | None) -> str:
    """Return what a route's ``min_version`` means for this build, to follow another clause; or nothing."""
    if minimum is None:
        return ""
    if app_version is None:
        return f"; it is for {minimum} and newer, and a build without a version counts as the newest"
    if parse_version(app_version) is None:
        return f"; {app_version!r} is not a version, so it counts as new enough for {minimum}"
    return f"; {app_version} is new enough for {minimum}"


def why_not_returned(router: Router, destination: str) -> str:
    """Return why a destination must not be sent to the app."""
    try:
        url = ada_url.URL(destination)
    except ValueError:
        return "its destination is not a URL"
    if url.username or url.password:
        return "its destination contains a user name or password"
    own = ", ".join(sorted(router.own_schemes)) or "none set"
    scheme = str(url.protocol).removesuffix(":")
    return (
        f"only http, https and the app's own schemes ({own}) are returned, and its destination has {scheme}"
    )


def differences(route: CompiledRoute, target: UrlForms) -> list[Difference]:
    """Return how a route's pattern differs from a URL, part by part; an empty list if it matches."""
    if any(route.pattern.match(target, forms) is not None for forms in target.forms):
        return []
    found = [list(_differences(route.pattern.parts, form, target)) for form in target.forms[0]]
    return min(found, key=_cost) or [Difference("differs", _OTHER_WORD, is_far=True)]


def _cost(found: Sequence[Difference]) -> float:
    return sum(each.cost for each in found)


def _because(
    router: Router, route: Route, destination: str | None, app_version: str | None, shown: str | None
) -> str:
    if destination is None:
        return "there is no URL to route"
    if route.url is None:
        return why_not_returned(router, destination)
    found = router.first_match(route.url)
    if found is None:
        return why_unlisted(router, route.url, shown)
    rule = found[0].rule
    if route.reason == "update_required":
        instead = "which is its fallback" if rule.fallback else "which is the app's update screen"
        return (
            f"{rule.pattern} leads to {rule.screen} in {rule.min_version} and newer only, and this build is"
            f" {app_version}: it gets {route.screen}, {instead}"
        )
    written = route.url if shown is None else shown
    return f"{rule.pattern} is the first pattern that covers {written}" + about_version(
        rule.min_version, app_version
    )


def _verdict(
    route: CompiledRoute,
    winner: CompiledRoute | None,
    target: UrlForms,
    version: tuple[int, ...] | None,
) -> Verdict:
    found = differences(route, target)
    if route is winner:
        if version is not None and version < route.min_version:
            return Verdict(route, "too_new", f"matches, but needs {route.rule.min_version} or newer")
        return Verdict(route, "taken", "matches" + ("" if _as_given(route, target) else _SLASH_APART))
    if not found and winner is not None:
        if _as_given(winner, target) and not _as_given(route, target):
            return Verdict(route, "later", f"matches{_SLASH_APART}; #{winner.index} matches the URL as it is")
        return Verdict(route, "later", f"matches, too, but #{winner.index} comes first")
    return Verdict(route, "differs", _joined([each.words for each in found]))


_SLASH_APART = ", but for the slash at the end"


def _as_given(route: CompiledRoute, target: UrlForms) -> bool:
    """Return True if a pattern matches the URL with its trailing slash as given."""
    return route.pattern.match(target, target.forms[0]) is not None


def _differences(parts: Parts, form: str, target: UrlForms) -> Iterator[Difference]:
    """Yield how a pattern differs from one form of a URL."""
    side, host, port, path, fragment = _split(form)
    if parts.protocol != side or (side == OWN and not _matches("hostname", parts.host, host)):
        yield Difference(_scheme_words(parts), _OTHER_SCHEME)
    elif not _matches("hostname", parts.host, host):
        yield Difference(f"is for the host {parts.host}", _OTHER_HOST)
    if parts.protocol == side == WEB and not _matches("port", parts.port, port):
        yield Difference(f"has the port {parts.port}" if parts.port else "has no port", _OTHER_PORT)
    yield from _path_differences(parts.path, path)
    for name, expected in parts.query:
        value = target.parameter(name)
        if value is None:
            yield Difference(f"needs the parameter {name}", _PARAMETER)
        elif not _matches("hash", expected, value):
            yield Difference(f"needs {name}={expected}", _PARAMETER)
    if not _matches("hash", parts.fragment, fragment):
        yield Difference(f"needs #{parts.fragment}" if parts.fragment else "has no fragment", _FRAGMENT)


def _split(form: str) -> tuple[str, str, str, str, str]:
    """Split a normalised form of a URL: protocol, host, port, path, fragment."""
    address, _, fragment = form.partition("#")
    side, _, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.rpartition(":") if re.search(r":\d+\Z", authority) else (authority, "", "")
    return side, host, port if colon else "", slash + path, fragment


def _matches(component: _Component, pattern: str, value: str) -> bool:
    if pattern in ("*", value):
        return True
    if _LITERAL.fullmatch(pattern):
        return _ESCAPED.sub(r"\1", pattern) == value
    try:
        return _compiled(component, pattern).test(cast("Any", {component: value}))
    except ValueError:  # a value that a URL cannot have there
        return False


@lru_cache(_COMPILED_MAX)
def _compiled(component: _Component, pattern: str) -> URLPattern:
    return URLPattern(cast("Any", {component: pattern}))


def _scheme_words(parts: Parts) -> str:
    if parts.protocol == WEB:
        return "is for http and https"
    if not parts.host:
        return "is for a scheme that is not one of the app's"
    schemes = parts.host.removesuffix(SCHEME_AS_HOST).strip("()").replace("|", ", ")
    return f"is for the app's own scheme {schemes}"


class _Piece(Struct, frozen=True):
    """A segment of a pattern's path."""

    text: str
    literal: str | None  # its text without escapes, if it has no group
    spans: bool  # may match no segment, or several

    def test(self, segment: str) -> bool:
        if self.literal is not None:
            return self.literal == segment
        return _ANY.fullmatch(self.text) is not None or _matches("hash", self.text, segment)


class _Step(Struct, frozen=True):
    """One step of an alignment. ``piece`` is None for a segment that the pattern lacks, and the reverse."""

    cost: float
    piece: _Piece | None = None
    segment: str | None = None


_Way = tuple[float, tuple[_Step, ...]]


def _path_differences(pattern: str, path: str) -> Sequence[Difference]:
    """Return how a pattern's path differs from a URL's, segment by segment."""
    pieces = [_piece(text) for text in _PIECES.findall(pattern) if text][:_SEGMENTS_MAX]
    segments = _segments(path)
    cost, steps = _align(pieces, segments)
    if cost and any(map(_is_alike, steps)):
        return list(_step_differences(steps))
    if not cost and any(_matches("pathname", pattern, each) for each in (path, path.rstrip("/"), f"{path}/")):
        return ()
    return (Difference(f"has the path {_short(pattern)}", max(cost, _OTHER_WORD), is_far=True),)


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/", _SEGMENTS_MAX + 1) if segment][:_SEGMENTS_MAX]


def _is_alike(step: "_Step") -> bool:
    return bool(step.piece and step.segment and not step.piece.spans and step.cost <= _NOT_ALLOWED)


def _piece(text: str) -> _Piece:
    literal = _ESCAPED.sub(r"\1", text) if _LITERAL.fullmatch(text) else None
    return _Piece(text, literal, literal is None and bool(_REPEATS.search(_GROUP.sub("", text))))


def _align(pieces: Sequence[_Piece], segments: Sequence[str]) -> _Way:
    """Align a pattern's segments with a URL's: the cheapest edit of one list into the other.

    ``best[j]`` is the cheapest way for the pieces so far and ``segments[:j]``. A segment that is missing at
    the beginning costs a little more than one at the end.
    """
    best: list[_Way] = [(0.0, ())]
    for segment in segments:
        best.append(_plus(best[-1], _Step(_edge(len(best)), segment=segment)))
    for number, piece in enumerate(pieces, 1):
        missing = _Step(_missing(piece, number), piece)
        row = [_plus(best[0], missing)]
        for at, segment in enumerate(segments):
            extra = _Step(0.0, piece, segment) if piece.spans else _Step(_edge(at + 1), segment=segment)
            unlike = _Step(_unlike(piece, segment), piece, segment)
            ways = (_plus(best[at], unlike), _plus(best[at + 1], missing), _plus(row[at], extra))
            row.append(min(ways, key=lambda way: way[0]))
        best = row
    return best[-1]


def _missing(piece: _Piece, number: int) -> float:
    if piece.spans:
        return 0.0
    return _edge(number) + (0 if piece.literal is None else _OTHER_WORD - _SEGMENT)


def _edge(number: int) -> float:
    return _SEGMENT + _AT_THE_START / number


def _plus(way: _Way, step: _Step) -> _Way:
    return way[0] + step.cost, (*way[1], step)


def _unlike(piece: _Piece, segment: str) -> float:
    """Return how much a segment of a pattern differs from one of a URL."""
    if piece.test(segment):
        return 0.0
    if piece.literal is None:
        return _NOT_ALLOWED
    return _unlike_text(piece.literal.lower()[:_SHOWN_CHARS], segment.lower()[:_SHOWN_CHARS])


@lru_cache(_COMPILED_MAX)
def _unlike_text(here: str, there: str) -> float:
    if here == there:
        return _OTHER_CASE
    if SequenceMatcher(None, here, there).ratio() >= _ALIKE:
        return _LIKE_WORD
    is_short = here.startswith(there) or (len(here) >= _WORD_CHARS and there.startswith(here))
    return _NOT_ALLOWED if is_short else _OTHER_WORD


def _step_differences(steps: Sequence[_Step]) -> Iterator[Difference]:
    """Yield the differences of an alignment; neighbouring segments that are missing are one difference."""
    for (has_piece, has_segment), group in groupby(steps, key=_kind):
        some = [step for step in group if step.cost]
        if not some:
            continue
        cost, is_last = sum(step.cost for step in some), some[-1] is steps[-1]
        if has_piece and has_segment:
            yield from (Difference(_unlike_words(step), step.cost) for step in some)
        elif has_piece:
            text = _short("/".join(step.piece.text for step in some if step.piece))
            yield Difference(f"goes on with /{text}" if is_last else f"has a further /{text}", cost)
        else:
            text = _short("/".join(step.segment or "" for step in some))
            yield Difference(f"ends before /{text}" if is_last else f"has no /{text}", cost)


def _kind(step: _Step) -> tuple[bool, bool]:
    return step.piece is not None, step.segment is not None


def _unlike_words(step: _Step) -> str:
    assert step.piece is not None  # noqa: S101  ensured by the caller
    segment, literal = step.segment or "", step.piece.literal
    here, there = _short(step.piece.text), _short(segment)
    if literal is None:
        return f"has {here}, which does not match {there}"
    case = " (upper and lower case differ)" if literal.lower() == segment.lower() else ""
    return f"has /{here} where the URL has /{there}{case}"


def _short(text: str) -> str:
    text = percent_decoded(text)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
