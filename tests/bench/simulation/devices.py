"""Phones: what they call themselves in a browser and in the app, and what a page can see of them.

The forms are those of captured User-Agents (``tests/unit/user_agents.tsv``): Safari writes 18_6 on every
later iOS, Chrome on Android "Android 10; K" on every phone, CFNetwork no model. Models and versions have
shares as in public statistics (StatCounter, TelemetryDeck; 2025): the most common model is one phone in
twelve among iPhones, one in twenty-five among Androids.
"""

from random import Random

from msgspec import Struct

from service.domain.device_identity import Platform
from tests.bench.simulation.parameters import City

# model as the User-Agent of an in-app browser names it, its screen in CSS pixels, its share
_IPHONES = (
    ("iPhone12,1", "414x896@2", 7),
    ("iPhone12,8", "375x667@2", 3),
    ("iPhone13,2", "390x844@3", 6),
    ("iPhone14,2", "390x844@3", 4),
    ("iPhone14,3", "428x926@3", 4),
    ("iPhone14,5", "390x844@3", 8),
    ("iPhone14,6", "375x667@2", 3),
    ("iPhone14,7", "390x844@3", 6),
    ("iPhone15,2", "393x852@3", 6),
    ("iPhone15,3", "430x932@3", 7),
    ("iPhone15,4", "393x852@3", 8),
    ("iPhone16,1", "393x852@3", 7),
    ("iPhone16,2", "430x932@3", 8),
    ("iPhone17,1", "402x874@3", 6),
    ("iPhone17,2", "440x956@3", 7),
    ("iPhone17,3", "393x852@3", 6),
    ("iPhone18,3", "402x874@3", 4),
)
_IOS = ((16, 22, 0.06), (17, 23, 0.14), (18, 24, 0.4), (26, 25, 0.4))  # version, Darwin, share
_ANDROID = ((11, 0.07), (12, 0.12), (13, 0.21), (14, 0.3), (15, 0.3))
_ANDROID_SCREENS = (
    ("360x800@3", 0.22),
    ("384x832@2.8125", 0.2),
    ("412x915@2.625", 0.17),
    ("393x873@2.75", 0.15),
    ("360x780@3", 0.1),
    ("411x914@2.625", 0.06),
    ("385x854@2.8125", 0.05),
    ("320x711@2.25", 0.05),
)
_ANDROIDS = (
    *("SM-A155F", "SM-A546B", "SM-S911B", "SM-S928B", "SM-A256B", "SM-G991B", "SM-A346B", "SM-S918B"),
    *("SM-A145F", "SM-G780G", "SM-A127F", "SM-S721B", "Pixel 8", "Pixel 7", "Pixel 7a", "Pixel 9", "Pixel 6"),
    *("23021RAA2Y", "22101316G", "2201117TY", "23106RN0DA", "24117RN76O", "23129RAA4G", "220333QAG"),
    *("moto g54 5G", "moto g14", "moto g84 5G", "CPH2591", "CPH2637", "CPH2477", "RMX3834", "RMX3710"),
    *("V2247", "V2310", "Infinix X6525", "TECNO KI5q", "CPH2449", "ONEPLUS A6013", "XQ-DC54", "FP5"),
)

_SAFARI = (
    "Mozilla/5.0 ({device}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version}.1 {mobile}Safari/604.1"
)
_WEB_VIEW = (
    "Mozilla/5.0 ({device}) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
    " [FBAN/FBIOS;FBAV/450.0;FBDV/{model};FBMD/iPhone;FBSN/iOS;FBSV/{version}.1]"
)
_WEB_KIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_CHROME = f"Mozilla/5.0 (Linux; Android 10; K) {_WEB_KIT} Chrome/140.0.0.0 Mobile Safari/537.36"
_ANDROID_VIEW = (
    "Mozilla/5.0 (Linux; Android {version}; {model} Build/UP1A.1; wv) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Version/4.0 Chrome/140.0.0.0 Mobile Safari/537.36"
)
_MAC = "Macintosh; Intel Mac OS X 10_15_7"
_IPAD_SCREENS = ("820x1180@2", "810x1080@2", "744x1133@2", "1024x1366@2")
DESKTOP = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEB_KIT} Chrome/140.0.0.0 Safari/537.36"


class Phone(Struct, frozen=True):
    """One phone or tablet."""

    platform: Platform
    safari: bool  # whose clicks may go through Apple's relay
    app_agent: str
    browser_agents: tuple[str, str]  # the browser's, and an in-app browser's
    screen: str

    @property
    def dub_system(self) -> str:
        """Return what Dub makes of its browser's User-Agent."""
        if "Macintosh" in self.browser_agents[0]:
            return "Mac"
        return "iOS" if self.platform == "ios" else "Android"


def make_phone(city: City, random: Random) -> Phone:
    """Make one as they are sold here."""
    return _apple(city, random) if random.random() < city.ios else _android(city, random)


def mac_safari(random: Random) -> str:
    """Return the User-Agent of a Mac, which may as well be an iPad's."""
    return _SAFARI.format(device=_MAC, version=random.choice((17, 18, 26)), mobile="")


def _apple(city: City, random: Random) -> Phone:
    version, darwin, _ = random.choices(_IOS, [share for *_, share in _IOS])[0]
    told = "18_6" if version > 18 else f"{version}_1"
    device = f"iPhone; CPU iPhone OS {told} like Mac OS X"
    app = f"Acme/12 CFNetwork/1500 Darwin/{darwin}.1.0"
    model, screen, _ = random.choices(_IPHONES, [share for *_, share in _IPHONES])[0]
    view = _WEB_VIEW.format(device=device, model=model, version=version)
    if random.random() < city.ipad:
        browser = _SAFARI.format(device=_MAC, version=version, mobile="")
        screen = random.choice(_IPAD_SCREENS)
        return Phone("ios", safari=True, app_agent=app, browser_agents=(browser, browser), screen=screen)
    browser = _SAFARI.format(device=device, version=version, mobile="Mobile/15E148 ")
    return Phone("ios", safari=True, app_agent=app, browser_agents=(browser, view), screen=screen)


def _android(city: City, random: Random) -> Phone:
    version = random.choices([v for v, _ in _ANDROID], [share for _, share in _ANDROID])[0]
    model = random.choices(_ANDROIDS, [1 / (rank + 6) for rank in range(len(_ANDROIDS))])[0]
    says = random.random() < city.android_app_says_model
    app = f"Dalvik/2.1.0 (Linux; U; Android {version}; {model} Build/UP1A.1)" if says else "okhttp/4.12.0"
    view = _ANDROID_VIEW.format(version=version, model=model)
    screen = random.choices(_ANDROID_SCREENS, [share for _, share in _ANDROID_SCREENS])[0][0]
    return Phone("android", safari=False, app_agent=app, browser_agents=(_CHROME, view), screen=screen)
