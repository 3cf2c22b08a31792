"""Read the fields of an open leniently, because clients' HTTP and JSON stacks differ.

What can go wrong: numbers arrive as text or floats, text ends with a line break, ``iOS`` is sent for ``ios``,
an id is a placeholder, a text has half of an emoji, a referrer is too long. Usable values are used. A field
that cannot be used is dropped and its name reported, so that no open is lost because of it.
"""

import re
from collections.abc import Callable
from typing import Any

from service.domain.deep_links import DeepLink, canonical_domain, control_free
from service.domain.device_identity import Platform, canonical_install_id, platform_of
from service.domain.device_sessions import session_name
from service.domain.errors import InvalidField
from service.domain.match_odds import NO_SIGNALS, Signals
from service.domain.models import App
from service.domain.signals import language_of, screen_of, timezone_of

_DOMAIN_MAX_CHARS = 253
_SIGNAL_MAX_CHARS = 64
_MILLISECONDS_ABOVE = 1e11  # as seconds, such a time would be after the year 5000
_NUMBER_MAX = 1e18
_NUMBERS = (int, float)
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.\d{0,18})?", re.ASCII)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PLATFORMS: dict[str, Platform] = {"ios": "ios", "android": "android"}

ParseLink = Callable[[str, tuple[str, ...]], DeepLink]


class FieldReader:
    """Reads one request's fields. Each method takes a field's name and value, and returns the usable value.

    Values may have any JSON type. The result is None for null, for empty or blank text, and for a value that
    cannot be used; the name of the latter is added to ``ignored``.
    """

    __slots__ = ("ignored",)

    def __init__(self) -> None:
        self.ignored: list[str] = []

    def text(self, name: str, value: Any, max_chars: int) -> str | None:
        """Read text without control characters, and remove white space around it."""
        if value is None:  # fast path, here and in the other methods: most fields are absent
            return None
        value = _given(value)
        if value is None or (isinstance(value, str) and len(value) <= max_chars and control_free(value)):
            return value
        self.ignored.append(name)
        return None

    def any_text(self, name: str, value: Any, max_chars: int) -> str | None:
        """Read text with any characters, such as a clipboard's line breaks; replace lone surrogates."""
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
        """Read a URL; return its text and its parsed form."""
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
        """Read a domain name in canonical form. It may belong to another app."""
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
        """Read an installId in canonical form."""
        value = _given(_number_as_text(value))
        if value is None:
            return None
        install_id = canonical_install_id(value) if isinstance(value, str) else None
        if install_id is None:
            self.ignored.append(name)
        return install_id

    def platform(self, name: str, value: Any, user_agent: str) -> Platform | None:
        """Read a platform's name, ignoring case; return None for a platform that is not supported.

        If the field is absent, the platform is read from the User-Agent.
        """
        value = _given(value)
        if isinstance(value, str):
            return _PLATFORMS.get(value) or _PLATFORMS.get(value.lower())
        if value is not None:
            self.ignored.append(name)
        return platform_of(user_agent)

    def version(self, name: str, value: Any, max_chars: int) -> str | None:
        """Read a version as text; the number ``12`` becomes "12"."""
        return self.text(name, _number_as_text(value), max_chars)

    def test_device(self, name: str, value: Any, max_chars: int) -> str | None:
        """Read the name of a test session in canonical form. It may not be active."""
        if value is None:
            return None
        text = self.text(name, value, max_chars)
        if text is None:
            return None
        found = session_name(text)
        if found is None:
            self.ignored.append(name)
        return found

    def signal(self, name: str, value: Any, read: Callable[[str], str | None]) -> str:
        """Read a signal in its one form; return "" if there is none, or if it cannot be used."""
        if value is None:
            return ""
        text = self.text(name, value, _SIGNAL_MAX_CHARS)
        if text is None:
            return ""
        found = read(text)
        if found is None:
            self.ignored.append(name)
        return found or ""

    def signals(self, language: Any, timezone: Any, screen: Any) -> Signals:
        """Read the fields ``language``, ``timezone`` and ``screen``."""
        if language is None and timezone is None and screen is None:
            return NO_SIGNALS
        return Signals(
            self.signal("language", language, language_of),
            self.signal("timezone", timezone, timezone_of),
            self.signal("screen", screen, screen_of),
        )

    def bounded(self, name: str, value: Any, low: int, high: int) -> int | None:
        """Read a number, and clamp it to the bounds."""
        if value is None:
            return None
        number = self._number(name, value)
        return None if number is None else int(min(max(number, low), high))

    def timestamp(self, name: str, value: Any) -> float | None:
        """Read Unix seconds; values above 1e11 are taken as milliseconds.

        Values of 0 and below count as absent: Google Play's API returns 0 for an unknown time.
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
        """Read true or false. No other value is converted, because consent must be explicit."""
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
            return max(min(value, _NUMBER_MAX), -_NUMBER_MAX)  # an integer may be too large for a float
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            return float(value)
        self.ignored.append(name)
        return None


def _given(value: Any) -> Any:
    """Return text without white space around it, None if nothing is left; other values unchanged."""
    return (value.strip() or None) if isinstance(value, str) else value


def _number_as_text(value: Any) -> Any:
    """Return a number as text, ``12`` and ``12.0`` as "12"; other values unchanged."""
    if not isinstance(value, _NUMBERS) or isinstance(value, bool):
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
