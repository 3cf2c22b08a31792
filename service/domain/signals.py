"""Bring the signals of browsers and apps into one form, so that those of one device are equal.

Sources: MDN, ``navigator.language`` (BCP 47), ``Intl.DateTimeFormat().resolvedOptions().timeZone`` (IANA),
``screen.width``, ``screen.height`` and ``devicePixelRatio``; apps have locales with an underscore
(``de_DE``), and screens that may be turned.
"""

import re

_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{2,8}){0,3}")
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,62}")
_SCREEN = re.compile(r"(\d{2,5})x(\d{2,5})(?:@(\d{1,2}(?:\.\d{1,6})?))?", re.ASCII)


def language_of(text: str) -> str | None:
    """Return a language tag such as ``de-de``; None if the text is not one."""
    language = text.partition("@")[0].partition(".")[0].replace("_", "-").lower()
    return language if _LANGUAGE.fullmatch(language) else None


def timezone_of(text: str) -> str | None:
    """Return the name of a time zone such as ``Europe/Berlin``; None if the text cannot be one."""
    return text if _TIMEZONE.fullmatch(text) else None


def screen_of(text: str) -> str | None:
    """Return a screen as ``390x844@3``, the shorter side first; None if the text does not describe one."""
    found = _SCREEN.fullmatch(text.replace(" ", "").lower())
    if found is None:
        return None
    short, long = sorted((int(found[1]), int(found[2])))
    return f"{short}x{long}" + ("" if found[3] is None else f"@{round(float(found[3]), 1):g}")
