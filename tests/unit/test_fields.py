"""Fields of an open are read as phones' stacks write them; what cannot be used is dropped and named."""

from typing import Any

import pytest

from service.api.fields import FieldReader
from service.domain.models import App
from service.domain.routing import Router
from service.domain.wrapped_links import find_deep_link

ACME = App("acme", ("acme.link",), Router((), default_screen="home"))
OKHTTP = "okhttp/4.12.0"
ABSENT = [None, "", " ", "\n", "\t \r\n", "\u00a0", "\u3000"]
NO_TEXT = [3, 1.5, True, ["x"], {"a": 1}]


def read(method: str, value: Any, *more: Any) -> tuple[Any, list[str]]:
    reader = FieldReader()
    return getattr(reader, method)("field", value, *more), reader.ignored


@pytest.mark.parametrize("value", ABSENT)
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("text", (10,)),
        ("any_text", (10,)),
        ("version", (10,)),
        ("install_id", ()),
        ("bounded", (100, 10_000)),
        ("timestamp", ()),
        ("boolean", ()),
    ],
)
def test_null_and_blank_text_are_absent(method: str, more: tuple[Any, ...], value: Any) -> None:
    """They are no mistake: nothing is named."""
    assert read(method, value, *more) == (None, [])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("utm_source=x\n", "utm_source=x"),
        ("\u00a0 x\r\n", "x"),
        ("x" * 12, "x" * 12),
        ("x" * 13, None),
        ("a\nb", None),
        ("a\u0000", None),
        ("a\u0085b", None),
        ("a\ud83d", None),  # half of an emoji
        *[(value, None) for value in NO_TEXT],
    ],
)
def test_text(value: Any, found: str | None) -> None:
    """White space at the ends is dropped; nothing else is mended."""
    assert read("text", value, 12) == (found, [] if found else ["field"])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("two\nlines\t\u0000", "two\nlines\t\u0000"),
        ("cut \ud83d", "cut \ufffd"),
        ("x" * 20, "x" * 20),
        ("x" * 21, None),
        *[(value, None) for value in NO_TEXT],
    ],
)
def test_a_clipboard_may_hold_anything(value: Any, found: str | None) -> None:
    """Control characters and half of an emoji do not cost the link beside them."""
    assert read("any_text", value, 20) == (found, [] if found else ["field"])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("2.4.1", "2.4.1"),
        (12, "12"),
        (12.0, "12"),
        (2.5, "2.5"),
        ("1" * 65, None),
        (True, None),
        (["2.4"], None),
        ({}, None),
    ],
)
def test_versions(value: Any, found: str | None) -> None:
    """A number is a version, too."""
    assert read("version", value, 64) == (found, [] if found else ["field"])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("install-anna", "install-anna"),
        (" install-anna\n", "install-anna"),
        ("8D7E6F5A-1234-4ABC-9DEF-001122334455", "8d7e6f5a-1234-4abc-9def-001122334455"),
        (1234567890123456789, "1234567890123456789"),
        ("00000000-0000-0000-0000-000000000000", None),
        ("undefined", None),
        ("short", None),
        ("x" * 129, None),
        (1234567, None),
        (True, None),
        (["install-anna"], None),
        (float("inf"), None),
    ],
)
def test_install_ids(value: Any, found: str | None) -> None:
    """Placeholders and what is too short or too long tell no installs apart."""
    assert read("install_id", value) == (found, [] if found else ["field"])


@pytest.mark.parametrize(
    ("value", "found", "ignored"),
    [
        ("ios", "ios", []),
        ("iOS", "ios", []),
        ("IOS ", "ios", []),
        ("Android", "android", []),
        ("macos", None, []),
        ("ohos", None, []),
        ("windows", None, []),
        ("x" * 5000, None, []),
        (None, "android", []),
        ("", "android", []),
        (1, "android", ["field"]),
        (["ios"], "android", ["field"]),
    ],
)
def test_platforms(value: Any, found: str | None, ignored: list[str]) -> None:
    """Another platform is unknown, whatever the User-Agent looks like; without one the User-Agent says it."""
    assert read("platform", value, OKHTTP) == (found, ignored)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1500, 1500),
        (1500.0, 1500),
        (1500.9, 1500),
        ("1500", 1500),
        (" 1500.0 ", 1500),
        (99, 100),
        (-1, 100),
        (0, 100),
        (10_001, 10_000),
        ("60000", 10_000),
        (float("inf"), 10_000),  # a number beyond all, as JSON may write it
        (10**4000, 10_000),
        (-(10**4000), 100),
        ("fast", None),
        ("1e3", None),
        ("0x5dc", None),
        ("1_500", None),
        ("9" * 40, None),
        ("nan", None),
        (True, None),
        ([1500], None),
    ],
)
def test_numbers_are_held_to_their_bounds(value: Any, found: int | None) -> None:
    """Floats and numeric text are numbers."""
    assert read("bounded", value, 100, 10_000) == (found, [] if found else ["field"])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1_785_585_600, 1_785_585_600),
        (1_785_585_600.5, 1_785_585_600.5),
        (1_785_585_600_500, 1_785_585_600.5),
        ("1785585600", 1_785_585_600),
        (" 1785585600500 ", 1_785_585_600.5),
    ],
)
def test_times_are_read_as_unix_seconds(value: Any, seconds: float) -> None:
    """Above 1e11 a value is in milliseconds."""
    assert read("timestamp", value) == (seconds, [])


@pytest.mark.parametrize("value", [0, "0", 0.0, -1])
def test_zero_is_no_time(value: Any) -> None:
    """Google Play's InstallReferrerClient returns 0 where it does not know: absent, and no mistake."""
    assert read("timestamp", value) == (None, [])


@pytest.mark.parametrize(
    "value", ["yesterday", "2026-08-01T12:00:00Z", "nan", 1e300, 10**4000, float("inf"), True, []]
)
def test_what_is_no_time_is_named(value: Any) -> None:
    """Dates in words, and numbers beyond all years."""
    assert read("timestamp", value) == (None, ["field"])


@pytest.mark.parametrize("value", [True, False])
def test_consent(value: bool) -> None:  # noqa: FBT001  what is read
    """True and false are read."""
    assert read("boolean", value) == (value, [])


@pytest.mark.parametrize("value", ["true", "yes", 1, 0, ["x"]])
def test_consent_is_never_guessed(value: Any) -> None:
    """Whatever else may have been meant by it is named."""
    assert read("boolean", value) == (None, ["field"])


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://acme.link/fb-promo\n", "https://acme.link/fb-promo"),
        ("acme://product/7", "acme://product/7"),
        ("fb-promo", None),
        ("https://", None),
        ("https://anna:secret@acme.link/x", None),
        ("https://acme.com/a\r\nb", None),
        ("x" * 101, None),
        (7, None),
    ],
)
def test_links(value: Any, url: str | None) -> None:
    """What is no URL is dropped; the rest comes as text and as parsed."""
    (text, link), ignored = read("link", value, 100, ACME, find_deep_link)
    assert (text, link and link.url, ignored) == (url, url, [] if url else ["field"])
