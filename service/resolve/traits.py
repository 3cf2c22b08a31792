"""What a click and an open tell of their device: system, model, major version. Never more than that.

What can go wrong: a frozen User-Agent believed (Chrome on Android says ``Android 10; K`` on every phone,
Safari says iOS 18 on every later one), and the right click refused; a Mac taken for an iPad or the other
way round (iPads call themselves Macs; a Mac's Chrome never is one); silence taken for agreement.
"""

import re
from enum import IntEnum
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from service.resolve.identity import Platform

System = Literal["ios", "android", "mac", ""]

USER_AGENT_READ_CHARS = 512
MODEL_MAX_CHARS = 32

_AGENTS_MAX = 20_000
_FROZEN_ANDROID = ("10", "k")
_IOS_FROZEN = 18  # from iOS 26 on, Safari and web views tell pages 18_6 or 18_7
# Darwin's major version is the same on all of Apple's systems; these are the iOS releases that it came with.
_IOS_BY_DARWIN = {
    **{darwin: darwin - 6 for darwin in range(15, 25)},  # Darwin 15 is iOS 9, Darwin 24 is iOS 18
    25: 26,
}

_APPLE_DEVICE = re.compile(r"\b(iPhone|iPad|iPod)(?:\d+,\d+)?", re.ASCII)
_APPLE_MODEL = re.compile(r"\b(?:iPhone|iPad|iPod)\d+,\d+", re.ASCII)
_IOS_SAID = re.compile(r"(?:\biOS[ /]|FBSV/)(\d{1,2})\b", re.ASCII)  # by apps, in their own words
_IOS_IN_PAGE = re.compile(r"\bOS (\d{1,2})_\d", re.ASCII)
_SAFARI_VERSION = re.compile(r"\bVersion/(\d{1,2})\b", re.ASCII)
_DARWIN = re.compile(r"\bDarwin/(\d{1,2})\.", re.ASCII)
_ANDROID = re.compile(r"\bAndroid(?: (\d{1,2})[\d.]*)?(?:; ([^;)]*(?:;[^;)]*)?))?", re.ASCII)
_LOCALE = re.compile(r"[a-z]{2}(?:[-_][a-z]{2})?|wv|u|mobile|tablet|rv:.*", re.ASCII)
_OTHER_ON_IOS = re.compile(r"\b(?:CriOS|FxiOS|EdgiOS|OPiOS|OPT|GSA)/", re.ASCII)
_MAC_BROWSERS = re.compile(r"\b(?:Chrome|Chromium|Firefox|Edg|OPR|Vivaldi)/", re.ASCII)


class Traits(Struct, frozen=True, gc=False):
    """A device as far as it showed itself; empty and 0 are "it did not say"."""

    system: System = ""
    model: str = ""  # lower case; of Apple's devices the kind, or the exact model where an app said it
    version: int = 0  # major version of the system


class Fit(IntEnum):
    """How well a click's device fits an open's: the better, the larger."""

    AS_MAC = 0
    """Said to be a Mac: fits iOS, since iPads say so too."""
    SYSTEM = 1
    """The same system, and no more to compare."""
    VERSION = 2
    """The same system and major version."""
    MODEL = 3
    """The same system and exact model."""


Misfit = Literal["system", "model", "version"]


@lru_cache(_AGENTS_MAX)
def traits_of(user_agent: str) -> Traits:
    """Read a User-Agent: a browser's, an in-app browser's, or an app's own (CFNetwork, okhttp, Dalvik)."""
    text = user_agent[:USER_AGENT_READ_CHARS]
    apple = _APPLE_DEVICE.search(text)
    if apple:
        return Traits("ios", _apple_model(text, apple[1]), _ios_version(text))
    if "Android" in text or "okhttp" in text:
        return _android(text)
    if "Macintosh" in text:
        if _MAC_BROWSERS.search(text):
            return Traits("mac", "mac")
        return Traits("mac", "", _safari_version(text))
    if "CFNetwork" in text or "Darwin/" in text or re.search(r"\biOS[ /]\d", text):
        return Traits("ios", "", _ios_version(text))
    return Traits()


def traits_of_click(user_agent: str | None, system: str | None, browser: str | None) -> Traits:
    """Read a click: from its User-Agent, or from what Dub made of it where that is all there is."""
    told = traits_of(user_agent) if user_agent else Traits()
    if told.system:
        return told
    name = (system or "").lower()
    if name in {"ios", "ipados"}:
        return _IOS
    if name == "android":
        return _ANDROID_ONLY
    if name in {"mac", "mac os", "macos", "mac os x"}:
        return _MAYBE_MAC if "safari" in (browser or "").lower() or not browser else _SURELY_MAC
    return _UNKNOWN


def traits_of_open(platform: Platform | None, user_agent: str) -> Traits:
    """Read an open: its platform goes before what its User-Agent says, and voids what contradicts it."""
    told = traits_of(user_agent)
    if platform is None:
        return told if told.system != "mac" else _UNKNOWN
    return told if told.system == platform else Traits(platform)


def compare(opened: Traits, clicked: Traits) -> Fit | Misfit:
    """Compare an open's device with a click's; an unknown system on either side never fits."""
    as_mac = clicked.system == "mac" and opened.system == "ios"
    if not (_may_be_an_ipad(opened, clicked) if as_mac else _same_system(opened, clicked)):
        return "system"
    if not as_mac and not _may_be_one_model(opened.model, clicked.model):
        return "model"
    versions_said = bool(opened.version and clicked.version)
    if versions_said and opened.version != clicked.version:
        return "version"
    if as_mac:
        return Fit.AS_MAC
    if _is_exact(opened.model) and opened.model == clicked.model:
        return Fit.MODEL
    return Fit.VERSION if versions_said else Fit.SYSTEM


_UNKNOWN = Traits()
_IOS = Traits("ios")
_ANDROID_ONLY = Traits("android")
_MAYBE_MAC = Traits("mac")
_SURELY_MAC = Traits("mac", "mac")
_KINDS = ("iphone", "ipad", "ipod")


def _apple_model(text: str, kind: str) -> str:
    exact = _APPLE_MODEL.search(text)
    return (exact[0] if exact else kind).lower()


def _ios_version(text: str) -> int:
    """Return iOS's major version: an app's own word, Safari's version, else the page's if not frozen."""
    said = _number(_IOS_SAID, text)
    if said:
        return said
    darwin = _number(_DARWIN, text)
    if darwin:
        return _IOS_BY_DARWIN.get(darwin, 0)
    told = _number(_IOS_IN_PAGE, text)
    return told if told != _IOS_FROZEN else _safari_version(text)


def _safari_version(text: str) -> int:
    """Return Safari's major version, which is that of iOS; other browsers freeze the same token."""
    return 0 if _OTHER_ON_IOS.search(text) else _number(_SAFARI_VERSION, text)


def _android(text: str) -> Traits:
    found = _ANDROID.search(text)
    if found is None:
        return _ANDROID_ONLY
    version, model = found[1] or "", _android_model(found[2] or "")
    if (version, model) == _FROZEN_ANDROID:
        return _ANDROID_ONLY
    return Traits("android", "" if model == "k" else model, int(version or 0))


def _android_model(text: str) -> str:
    """Return the first part after the version that is a model: locales and ``wv`` are not."""
    for part in text.lower().split(";"):
        name = part.partition(" build/")[0].strip()
        if name and not _LOCALE.fullmatch(name):
            return name[:MODEL_MAX_CHARS]
    return ""


def _same_system(one: Traits, other: Traits) -> bool:
    return bool(one.system) and one.system == other.system


def _may_be_an_ipad(opened: Traits, clicked: Traits) -> bool:
    """Whether a Mac's click may be an iPad's: its browser leaves it open, and the install is no iPhone."""
    return not clicked.model and not opened.model.startswith(("iphone", "ipod"))


def _is_exact(model: str) -> bool:
    return bool(model) and model not in _KINDS


def _may_be_one_model(one: str, other: str) -> bool:
    """Whether two may name one device: the same, or one a kind (``ipad``) and the other a model of it."""
    if not one or not other or one == other:
        return True
    return (one in _KINDS and other.startswith(one)) or (other in _KINDS and one.startswith(other))


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found[1]) if found else 0
