"""Phones and what they call themselves, in a browser and in the app."""

from random import Random

from msgspec import Struct

from service.domain.device_identity import Platform
from tests.bench.simulation.parameters import City

_IPHONES = ("iPhone13,2", "iPhone14,5", "iPhone14,7", "iPhone15,2", "iPhone15,4", "iPhone16,1", "iPhone17,3")
_IOS = ((16, 22, 0.08), (17, 23, 0.22), (18, 24, 0.35), (26, 25, 0.35))  # version, Darwin, share
_ANDROIDS = ("Pixel 7", "Pixel 8", "SM-S911B", "SM-A546B", "SM-A156B", "moto g54", "22101316G", "CPH2591")
_ANDROID = ((12, 0.15), (13, 0.25), (14, 0.35), (15, 0.25))

_SAFARI = (
    "Mozilla/5.0 ({device}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version}.1 {mobile}Safari/604.1"
)
_WEB_VIEW = (
    "Mozilla/5.0 ({device}) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
    " [FBAN/FBIOS;FBAV/450.0;FBDV/{model};FBMD/iPhone;FBSN/iOS;FBSV/{version}.1]"
)
_WEB_KIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_CHROME = f"Mozilla/5.0 (Linux; Android 10; K) {_WEB_KIT} Chrome/126.0.0.0 Mobile Safari/537.36"
_ANDROID_VIEW = (
    "Mozilla/5.0 (Linux; Android {version}; {model} Build/UP1A.1; wv) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Version/4.0 Chrome/126.0.0.0 Mobile Safari/537.36"
)
_MAC = "Macintosh; Intel Mac OS X 10_15_7"
DESKTOP = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEB_KIT} Chrome/126.0.0.0 Safari/537.36"


class Phone(Struct, frozen=True):
    """One phone or tablet."""

    platform: Platform
    safari: bool  # whose clicks may go through Apple's relay
    app_agent: str
    browser_agents: tuple[str, str]  # the browser's, and an in-app browser's

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
    view = _WEB_VIEW.format(device=device, model=random.choice(_IPHONES), version=version)
    if random.random() < city.ipad:
        browser = _SAFARI.format(device=_MAC, version=version, mobile="")
        return Phone("ios", safari=True, app_agent=app, browser_agents=(browser, browser))
    browser = _SAFARI.format(device=device, version=version, mobile="Mobile/15E148 ")
    return Phone("ios", safari=True, app_agent=app, browser_agents=(browser, view))


def _android(city: City, random: Random) -> Phone:
    version = random.choices([v for v, _ in _ANDROID], [share for _, share in _ANDROID])[0]
    model = random.choice(_ANDROIDS)
    says = random.random() < city.android_app_says_model
    app = f"Dalvik/2.1.0 (Linux; U; Android {version}; {model} Build/UP1A.1)" if says else "okhttp/4.12.0"
    view = _ANDROID_VIEW.format(version=version, model=model)
    return Phone("android", safari=False, app_agent=app, browser_agents=(_CHROME, view))
