"""Reads the fields of an open, which arrive as phones' many stacks write them.

What can go wrong: numbers as text or as floats, text with a line end, ``iOS`` for ``ios``, placeholders for
ids, half of an emoji, a referrer that is longer than any. What can be used is used; a field that cannot is
dropped and named, because an open must not be lost for it.
"""

import re
from collections.abc import Callable
from typing import Any

from service.domain.deep_links import DeepLink, canonical_domain, control_free
from service.domain.device_identity import Platform, canonical_install_id, platform_of
from service.domain.errors import InvalidField
from service.domain.models import App

_DOMAIN_MAX_CHARS = 253
_MILLISECONDS_ABOVE = 1e11  # as seconds these would lie beyond the year 5000
_NUMBER_MAX = 1e18
_NUMBERS = (int, float)
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.\d{0,18})?", re.ASCII)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PLATFORMS: dict[str, Platform] = {"ios": "ios", "android": "android"}

ParseLink = Callable[[str, tuple[str, ...]], DeepLink]


class FieldReader:
    """Reads one request's fields: each method takes a field's name and value, and returns what can be used.

    Null, and text that is empty or blank, is absent: ``None``. So is what cannot be used, but its name is
    added to ``ignored``. Values may be of any type that JSON has.
    """

    __slots__ = ("ignored",)

    def __init__(self) -> None:
        self.ignored: list[str] = []

    def text(self, name: str, value: Any, max_chars: int) -> str | None:
        """Read text without control characters, but for white space at its ends."""
        if value is None:  # which most fields are: here, as in the other methods, it takes no further call
            return None
        value = _given(value)
        if value is None or (isinstance(value, str) and len(value) <= max_chars and control_free(value)):
            return value
        self.ignored.append(name)
        return None

    def any_text(self, name: str, value: Any, max_chars: int) -> str | None:
        """Read text that may hold anything, such as a clipboard's: lines, half of an emoji."""
        if value is None:
            return None
        value = _given(value)
        if value is None:
            return None
        if isinstance(value, str) and len(value) <= max_chars:
            return _LONE_SURROGATE.sub("\ufffd", value)
        self.ignored.append(name)
        return None

    def link(
        self, name: str, value: Any, max_chars: int, app: App, parse: ParseLink
    ) -> tuple[str | None, DeepLink | None]:
        """Read a URL; return it as text, and as parsed."""
        text = _given(value)
        if text is None:
            return None, None
        try:
            if isinstance(text, str) and len(text) <= max_chars:
                return text, parse(text, app.domains)
        except InvalidField:
            pass
        self.ignored.append(name)
        return None, None

    def domain(self, name: str, value: Any, app: App) -> str | None:
        """Read a domain name; it may be another app's."""
        if value is None:
            return None
        if value in app.domains:
            return str(value)
        text = self.text(name, value, _DOMAIN_MAX_CHARS)
        if text is None:
            return None
        domain = canonical_domain(text)
        if domain:
            return domain
        self.ignored.append(name)
        return None

    def install_id(self, name: str, value: Any) -> str | None:
        """Read an installId, in its one form."""
        value = _given(_number_as_text(value))
        if value is None:
            return None
        install_id = canonical_install_id(value) if isinstance(value, str) else None
        if install_id is None:
            self.ignored.append(name)
        return install_id

    def platform(self, name: str, value: Any, user_agent: str) -> Platform | None:
        """Read a platform's name in any case; any other name is a platform that we do not know: ``None``.

        If there is none, the User-Agent says it.
        """
        value = _given(value)
        if isinstance(value, str):
            return _PLATFORMS.get(value) or _PLATFORMS.get(value.lower())
        if value is not None:
            self.ignored.append(name)
        return platform_of(user_agent)

    def version(self, name: str, value: Any, max_chars: int) -> str | None:
        """Read a version; ``12`` is "12"."""
        return self.text(name, _number_as_text(value), max_chars)

    def bounded(self, name: str, value: Any, low: int, high: int) -> int | None:
        """Read a number; one out of bounds is the bound."""
        if value is None:
            return None
        number = self._number(name, value)
        return None if number is None else int(min(max(number, low), high))

    def timestamp(self, name: str, value: Any) -> float | None:
        """Read Unix seconds; values above 1e11 are milliseconds.

        Zero and less are absent: Google Play's API returns 0 where it does not know.
        """
        if value is None:
            return None
        number = self._number(name, value)
        if number is None or number <= 0:
            return None
        seconds = number / 1000 if number > _MILLISECONDS_ABOVE else number
        if seconds <= _MILLISECONDS_ABOVE:
            return seconds
        self.ignored.append(name)
        return None

    def boolean(self, name: str, value: Any) -> bool | None:
        """Read true or false; nothing else is either, since this is a person's consent."""
        if value is None:
            return None
        value = _given(value)
        if value is None or isinstance(value, bool):
            return value
        self.ignored.append(name)
        return None

    def _number(self, name: str, value: Any) -> float | None:
        value = _given(value)
        if value is None:
            return None
        if isinstance(value, _NUMBERS) and not isinstance(value, bool):
            return max(min(value, _NUMBER_MAX), -_NUMBER_MAX)  # an integer may be beyond any float
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            return float(value)
        self.ignored.append(name)
        return None


def _given(value: Any) -> Any:
    """Return text without white space at its ends, ``None`` if nothing is left; other values as they are."""
    return (value.strip() or None) if isinstance(value, str) else value


def _number_as_text(value: Any) -> Any:
    """Return a number as text: ``12`` and ``12.0`` as "12". Other values stay as they are."""
    if not isinstance(value, _NUMBERS) or isinstance(value, bool):
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
