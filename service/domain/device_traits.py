"""Read system, model and major version of a device from a click or an open, and compare two devices.

What can go wrong:

- A frozen version is taken for the real one, and the right click is refused: Chrome sends ``Android 10; K``
  on every phone, Huawei's browser ``Android 10; HarmonyOS`` where apps send Android 12, and Safari sends
  iOS 18 on every later iOS.
- A part of a User-Agent is taken for the model although it is a locale, ``wv``, ``HMSCore 6.7`` or a
  manufacturer's name.
- A tablet identifies as a desktop computer, as iPads and Chrome on large Android tablets do: such a click may
  come from a tablet or a computer. Chrome on a Mac is never an iPad.
- A value that one side does not send counts as equal, although it may differ.
"""

import re
from enum import IntEnum
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from service.domain.device_identity import Platform

System = Literal["ios", "android", "mac", "linux", ""]

USER_AGENT_READ_CHARS = 512
MODEL_MAX_CHARS = 32

_PARTS_READ = 12  # between semicolons, after the version
_AGENTS_MAX = 20_000
_PAIRS_MAX = 4096  # a remembered comparison takes a third of the time
_FROZEN_ANDROID = 10  # without a model: sent by Chrome's reduced User-Agent and by browsers with a fixed one
_API_LEVELS_FROM = 24  # an app that writes "Android 34" means the API level, not the version
_IOS_FROZEN = 18  # from iOS 26 on, Safari and web views send 18_6 or 18_7
# iOS major version by Darwin's major version, which is the same on all of Apple's systems.
_IOS_BY_DARWIN = {
    **{darwin: darwin - 6 for darwin in range(15, 25)},  # Darwin 15 is iOS 9, Darwin 24 is iOS 18
    25: 26,
}

_APPLE_DEVICE = re.compile(r"\b(iPhone|iPad|iPod)(?:\d+,\d+)?", re.ASCII)
_APPLE_MODEL = re.compile(r"\b(?:iPhone|iPad|iPod)\d+,\d+", re.ASCII)
_IOS_IN_APP = re.compile(r"(?:\biOS[ /]|FBSV/)(\d{1,2})\b", re.ASCII)  # User-Agents that apps compose
_IOS_IN_PAGE = re.compile(r"\bOS (\d{1,2})_\d", re.ASCII)
_SAFARI_VERSION = re.compile(r"\bVersion/(\d{1,2})\b", re.ASCII)
_DARWIN = re.compile(r"\bDarwin/(\d{1,2})\.", re.ASCII)
_OTHER_ON_IOS = re.compile(r"\b(?:CriOS|FxiOS|EdgiOS|OPiOS|OPT|GSA)/", re.ASCII)
_MAC_BROWSERS = re.compile(r"\b(?:Chrome|Chromium|Firefox|Edg|OPR|Vivaldi)/", re.ASCII)
_UC_ABBREVIATIONS = ("Adr ", "Android "), ("iPh", "iPhone"), ("iPd", "iPod")
_UC_ON_LINUX = re.compile(r"UCWEB/[\d.]+ ?\(Linux;", re.ASCII)  # always Android, even if it is not named
# The rest of the comment after the version. A model may contain parentheses itself: "Moto G (4)".
_REST = r"(?:; ([^()]*(?:\([^()]*\)[^()]*)*))?"
_ANDROID_WITH_VERSION = re.compile(r"\bAndroid (\d{1,2})[\w.-]*" + _REST, re.ASCII)
_ANDROID_ALONE = re.compile(r"\bAndroid()" + _REST, re.ASCII)
_LINUX_DESKTOP = re.compile(r"\(X11; Linux (?:x86_64|aarch64|armv\w+)[;)]", re.ASCII)
_NO_TABLET = re.compile(r"\bHeadlessChrome\b|\bUbuntu\b|\bFedora\b", re.ASCII)
# Other systems, whose User-Agents also name Android or the iPhone so that websites send them the same pages.
_NEITHER = re.compile(r"\bWindows Phone\b|\bIEMobile\b|\bKAIOS\b", re.ASCII)
# Parts of a User-Agent (between semicolons, lower-cased) that are not the device's model.
_NO_MODEL = re.compile(
    r"[-_]?[a-z]{0,2}|mobile|tablet|rv:.*"  # one or two letters: u, k, wv, a language
    r"|[a-z]{2,3}(?=[-_])(?:[-_](?:hans|hant|latn|cyrl|arab))?(?:[-_](?:[a-z]{2}|419|001|150)?)?(?:_?#\w*)?"
    r"|linux(?: \w+)?|arm(?:v|64|eabi).*|aarch64|x86(?:_64)?"
    r"|android [\d.]+|(?:sdk|api)[ -]?\d+|\d+dpi|\d+x\d+|build/.*|\(.*"
    r"|(?:open)?harmony(?:os)?\b.*|[hg]mscore\b.*"
    r"|(?:opera (?:mini|mobi|tablet)|silk|scale|[\w.-]*browser|version)/.*",
    re.ASCII,
)
_MAKER = re.compile(
    r"samsung|google|xiaomi|redmi|poco|huawei|honor|oppo|vivo|oneplus|realme|motorola|lge?|sony|htc|nokia|hmd"
    r"|asus|lenovo|zte|tecno|infinix|itel|meizu|tcl|nothing|fairphone|amazon|blackview|doogee|ulefone"
)


class Traits(Struct, frozen=True, gc=False, omit_defaults=True):
    """What is known of a device; empty and 0 mean unknown."""

    system: System = ""
    model: str = ""  # lower case; for Apple "iphone" or "ipad", or the exact model where an app sends it
    version: int = 0  # major version of the system


class Fit(IntEnum):
    """How well a click's device fits an open's device; a larger value is a better fit."""

    AS_DESKTOP = 0
    """The click names a desktop system, as tablets may do: a Mac may be an iPad, Linux an Android tablet."""
    SYSTEM = 1
    """The same system; model and version are unknown on one side at least."""
    VERSION = 2
    """The same system and major version."""
    MODEL = 3
    """The same system and exact model."""


Misfit = Literal["system", "model", "version"]


@lru_cache(_AGENTS_MAX)
def traits_of(user_agent: str) -> Traits:
    """Read the User-Agent of a browser, an in-app browser or an app (CFNetwork, okhttp, Dalvik)."""
    text = user_agent[:USER_AGENT_READ_CHARS]
    if text.startswith("UCWEB/"):
        for short, full in _UC_ABBREVIATIONS:
            text = text.replace(short, full)
    if _NEITHER.search(text):
        return _UNKNOWN
    apple = _APPLE_DEVICE.search(text)
    if apple:
        return Traits("ios", _apple_model(text, apple[1]), _ios_version(text))
    if "Android" in text or "okhttp" in text or _UC_ON_LINUX.match(text):
        return _android(text)
    if "Macintosh" in text:
        return _SURELY_MAC if _MAC_BROWSERS.search(text) else Traits("mac", "", _safari_version(text))
    if "CFNetwork" in text or "Darwin/" in text or re.search(r"\biOS[ /]\d", text):
        return Traits("ios", "", _ios_version(text))
    is_desktop = _LINUX_DESKTOP.search(text) and not _NO_TABLET.search(text)
    return _MAYBE_A_TABLET if is_desktop else _UNKNOWN


def traits_of_click(user_agent: str | None, system: str | None, browser: str | None) -> Traits:
    """Return a click's device from its User-Agent, else from the system and browser that Dub parsed."""
    parsed = traits_of(user_agent) if user_agent else Traits()
    if parsed.system:
        return parsed
    name = (system or "").lower()
    if name in {"ios", "ipados"}:
        return _IOS
    if name == "android":
        return _ANDROID_ONLY
    if name in {"mac", "mac os", "macos", "mac os x"}:
        return _MAYBE_MAC if "safari" in (browser or "").lower() or not browser else _SURELY_MAC
    return _MAYBE_A_TABLET if name == "linux" else _UNKNOWN


def traits_of_open(platform: Platform | None, user_agent: str) -> Traits:
    """Return an open's device. If ``platform`` contradicts the User-Agent, only ``platform`` counts."""
    parsed = traits_of(user_agent)
    if platform is None:
        return parsed if parsed.system in {"ios", "android"} else _UNKNOWN
    return parsed if parsed.system == platform else Traits(platform)


@lru_cache(_PAIRS_MAX)
def compare(opened: Traits, clicked: Traits) -> Fit | Misfit:
    """Return how well a click's device fits an open's, or what differs. An unknown system never fits."""
    as_desktop = _may_be_a_tablet(opened, clicked)
    if not as_desktop and (not opened.system or opened.system != clicked.system):
        return "system"
    if not as_desktop and not _may_be_one_model(opened.model, clicked.model):
        return "model"
    versions_known = bool(opened.version and clicked.version)
    if versions_known and opened.version != clicked.version:
        return "version"
    if as_desktop:
        return Fit.AS_DESKTOP
    if _is_exact(opened.model) and _is_exact(clicked.model):
        return Fit.MODEL
    return Fit.VERSION if versions_known else Fit.SYSTEM


def may_be_one_device(one: Traits, other: Traits) -> bool:
    """Return True if two clicks may come from two browsers of one device."""
    return isinstance(compare(one, other), Fit) or isinstance(compare(other, one), Fit)


_UNKNOWN = Traits()
_IOS = Traits("ios")
_ANDROID_ONLY = Traits("android")
_MAYBE_MAC = Traits("mac")
_SURELY_MAC = Traits("mac", "mac")
_MAYBE_A_TABLET = Traits("linux")
_KINDS = ("iphone", "ipad", "ipod")


def _apple_model(text: str, kind: str) -> str:
    exact = _APPLE_MODEL.search(text)
    return (exact[0] if exact else kind).lower()


def _ios_version(text: str) -> int:
    """Return the iOS major version as an app names it, else by Darwin or ``OS x_y``; if frozen, Safari's."""
    from_app = _number(_IOS_IN_APP, text)
    if from_app:
        return from_app
    darwin = _number(_DARWIN, text)
    if darwin:
        return _IOS_BY_DARWIN.get(darwin, 0)
    from_browser = _number(_IOS_IN_PAGE, text)
    return from_browser if from_browser != _IOS_FROZEN else _safari_version(text)


def _safari_version(text: str) -> int:
    """Return Safari's major version, which equals that of iOS; 0 for browsers that freeze this token."""
    return 0 if _OTHER_ON_IOS.search(text) else _number(_SAFARI_VERSION, text)


def _android(text: str) -> Traits:
    found = _ANDROID_WITH_VERSION.search(text) or _ANDROID_ALONE.search(text)
    if found is None:
        return _ANDROID_ONLY
    model, version = _android_model(found[2] or ""), int(found[1] or 0)
    frozen = (version == _FROZEN_ANDROID and not model) or "HarmonyOS" in text or "OpenHarmony" in text
    return Traits("android", model, 0 if frozen or version >= _API_LEVELS_FROM else version)


def _android_model(text: str) -> str:
    """Return the first part after the version that may be a model, or ""."""
    for part in text.lower().split(";", _PARTS_READ)[:_PARTS_READ]:
        name = part.partition(" build/")[0].strip()
        if not _MAKER.fullmatch(name) and not _NO_MODEL.fullmatch(name):
            return name[:MODEL_MAX_CHARS]
    return ""


def _may_be_a_tablet(opened: Traits, clicked: Traits) -> bool:
    """Return True if a click from a desktop system may come from the tablet that opened the app.

    A Mac may be an iPad if the click's browser is not exclusive to Macs and the open is not from an iPhone.
    """
    if clicked.system == "mac":
        maybe_an_ipad = not clicked.model and not opened.model.startswith(("iphone", "ipod"))
        return opened.system == "ios" and maybe_an_ipad
    return clicked.system == "linux" and opened.system == "android"


def _is_exact(model: str) -> bool:
    return bool(model) and model not in _KINDS


def _may_be_one_model(one: str, other: str) -> bool:
    """Return True if two model names may mean one device.

    That is so if one is empty, if they are equal, if one is the other with the manufacturer's name in front
    (``samsung sm-s918b``), or if one is a product line (``ipad``) and the other a model of it.
    """
    if not one or not other or one == other:
        return True
    for longer, shorter in ((one, other), (other, one)):
        maker, _, model = longer.partition(" ")
        if model == shorter and _MAKER.fullmatch(maker):
            return True
        if shorter in _KINDS and longer.startswith(shorter):
            return True
    return False


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found[1]) if found else 0
