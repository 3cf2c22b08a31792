"""What a User-Agent tells of a device, and whether two of them can be one."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.device_identity import Platform
from service.domain.device_traits import (
    Fit,
    Misfit,
    System,
    Traits,
    compare,
    traits_of,
    traits_of_click,
    traits_of_open,
)

SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{} Mobile/15E148 Safari/604.1"
IPHONE_17 = f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {SAFARI.format('17.5')}"
IPHONE_18 = f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) {SAFARI.format('18.6')}"
IPHONE_26 = f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) {SAFARI.format('26.0')}"
VIEW = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS {} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Mobile/15E148"
)
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
MAC_SAFARI = f"{MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15"
MAC_CHROME = f"{MAC} AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
IPAD_CHROME = f"{MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126 Version/11.1.1 Safari/605.1.15"
CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36"
KIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
PIXEL = "Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/UD1A.230803.041; wv)"


@pytest.mark.parametrize(
    ("user_agent", "traits"),
    [
        (IPHONE_17, Traits("ios", "iphone", 17)),
        (IPHONE_18, Traits("ios", "iphone", 18)),
        (IPHONE_26, Traits("ios", "iphone", 26)),
        (VIEW.format("17_5"), Traits("ios", "iphone", 17)),
        (VIEW.format("18_7"), Traits("ios", "iphone", 0)),  # 18, or any later one
        (VIEW.format("26_0"), Traits("ios", "iphone", 26)),
        (
            VIEW.format("18_7") + " [FBDV/iPhone14,5;FBMD/iPhone;FBSN/iOS;FBSV/26.1]",
            Traits("ios", "iphone14,5", 26),
        ),
        (
            VIEW.format("17_5") + " Instagram 300.0 (iPhone14,5; iOS 17_5; en_US)",
            Traits("ios", "iphone14,5", 17),
        ),
        ("Mozilla/5.0 (iPad; CPU OS 16_5 like Mac OS X) " + SAFARI.format("16.5"), Traits("ios", "ipad", 16)),
        (MAC_SAFARI, Traits("mac", "", 17)),
        (MAC_CHROME, Traits("mac", "mac")),
        (IPAD_CHROME, Traits("mac", "", 0)),
        (f"Mozilla/5.0 (Linux; Android 10; K) {CHROME}", Traits("android")),
        (f"{PIXEL} {CHROME}", Traits("android", "pixel 8", 14)),
        (f"Mozilla/5.0 (Linux; Android 13; SM-S911B) {CHROME}", Traits("android", "sm-s911b", 13)),
        ("Mozilla/5.0 (Android 14; Mobile; rv:127.0) Gecko/127.0 Firefox/127.0", Traits("android", "", 14)),
        ("Mozilla/5.0 (Linux; U; Android 4.4.2; en-us; Nexus 5 Build/X)", Traits("android", "nexus 5", 4)),
        ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/UD1A.1)", Traits("android", "pixel 8", 14)),
        ("okhttp/4.12.0", Traits("android")),
        ("Acme/12 CFNetwork/1568 Darwin/24.0.0", Traits("ios", "", 18)),
        ("Acme/12 CFNetwork/1490 Darwin/23.2.0", Traits("ios", "", 17)),
        ("Acme/12 CFNetwork/3826 Darwin/25.0.0", Traits("ios", "", 26)),
        ("Acme/12 CFNetwork/9999 Darwin/31.0.0", Traits("ios", "", 0)),
        ("Acme/1.0 (com.acme; build:12; iOS 17.5.0) Alamofire/5.9", Traits("ios", "", 17)),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/126.0.0.0", Traits()),
        ("curl/8.5.0", Traits()),
        ("", Traits()),
        (f"{MAC} {KIT} FxiOS/127.0 Safari/605.1.15", Traits("mac")),  # Firefox on an iPad
        ("Mozilla/5.0 (Android 10; Mobile; rv:128.0) Gecko/128.0 Firefox/128.0", Traits("android")),
    ],
)
def test_user_agents(user_agent: str, traits: Traits) -> None:
    """System, model and major version, as far as they are said and not frozen."""
    assert traits_of(user_agent) == traits


def captured() -> Iterator[tuple[str, Traits]]:
    for line in Path(__file__).with_name("user_agents.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            system, model, version, user_agent = ("" if part == "-" else part for part in line.split("\t"))
            yield user_agent, Traits(cast("System", system), model, int(version or 0))


@pytest.mark.parametrize(("user_agent", "traits"), list(captured()), ids=lambda value: str(value)[:60])
def test_captured_user_agents(user_agent: str, traits: Traits) -> None:
    """No browser's decoration is a model, no frozen version a version, and no other system a phone's."""
    assert traits_of(user_agent) == traits


SAMSUNG_INTERNET = (
    "Mozilla/5.0 (Linux; Android 13; SAMSUNG SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko)"
    " SamsungBrowser/21.0 Chrome/110.0.5481.154 Mobile Safari/537.36"
)
HUAWEI_BROWSER = (
    "Mozilla/5.0 (Linux; Android 10; HarmonyOS; ELS-AN00; HMSCore 6.10.4.302) AppleWebKit/537.36"
    " (KHTML, like Gecko) Chrome/99.0.4844.88 HuaweiBrowser/13.0.6.302 Mobile Safari/537.36"
)
OPERA_MINI = "Opera/9.80 (Android; Opera Mini/36.2.2254/119.132; U; id) Presto/2.12.423 Version/12.16"
UC = "AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/57.0.2987.108 UCBrowser/13.0.0.1288 Mobile"
TABLET_CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0"
REDMI = "Redmi 7 Build/PKQ1.181021.001"


@pytest.mark.parametrize(
    ("app", "browser", "expected"),
    [
        ("Dalvik/2.1.0 (Linux; U; Android 13; SM-S918B Build/TP1A.220624.014)", SAMSUNG_INTERNET, Fit.MODEL),
        ("Dalvik/2.1.0 (Linux; U; Android 13; SM-S911B Build/TP1A.220624.014)", SAMSUNG_INTERNET, "model"),
        ("Acme/1.0 (Android 33; Samsung SM-S918B)", SAMSUNG_INTERNET, Fit.MODEL),
        ("Dalvik/2.1.0 (Linux; U; Android 12; ELS-AN00 Build/HUAWEIELS-AN00)", HUAWEI_BROWSER, Fit.MODEL),
        (f"Dalvik/2.1.0 (Linux; U; Android 9; {REDMI})", OPERA_MINI, Fit.SYSTEM),
        ("okhttp/4.12.0", OPERA_MINI, Fit.SYSTEM),
        (
            f"Dalvik/2.1.0 (Linux; U; Android 9; {REDMI})",
            f"Mozilla/5.0 (Linux; U; Android 9; en-US; {REDMI}) {UC}",
            Fit.MODEL,
        ),
        (
            f"Dalvik/2.1.0 (Linux; U; Android 9; {REDMI})",
            f"Mozilla/5.0 (Linux; U; Android 9; en-US; realme 7 Build/QP1A.190711.020) {UC}",
            "model",
        ),
        ("Dalvik/2.1.0 (Linux; U; Android 14; SM-X910 Build/UP1A.231005.007)", TABLET_CHROME, Fit.AS_DESKTOP),
        ("Acme/12 CFNetwork/1568 Darwin/24.0.0", TABLET_CHROME, "system"),
    ],
)
def test_an_app_and_a_browser_of_one_device(app: str, browser: str, expected: Fit | Misfit) -> None:
    """What an app says of its device is compared with what the device's browsers make of it."""
    assert compare(traits_of_open(None, app), traits_of(browser)) == expected


@given(st.text(max_size=200) | st.from_regex(r"(iPhone|iPad|Android|Darwin|Version|OS) ?/?\d{0,5}[_.; ]\w*"))
def test_any_text_reads_as_something(text: str) -> None:
    """Nobody's User-Agent is an error, nor kept whole."""
    traits = traits_of(text)
    assert len(traits.model) <= 32
    assert traits_of_open("ios", text).system == "ios"


@pytest.mark.parametrize(
    ("user_agent", "system", "browser", "expected"),
    [
        (None, "iOS", "Mobile Safari", "ios"),
        (None, "Android", "Chrome", "android"),
        (None, "Mac", "Safari", "mac"),
        (None, "Mac OS", None, "mac"),
        (None, "Windows", "Chrome", ""),
        (None, "Linux", "Chrome", "linux"),
        (None, "Ubuntu", "Firefox", ""),
        (None, None, None, ""),
        ("curl/8.5.0", "iOS", None, "ios"),
        (IPHONE_17, "Windows", None, "ios"),
    ],
)
def test_clicks_without_a_user_agent(
    user_agent: str | None, system: str | None, browser: str | None, expected: System
) -> None:
    """Where the User-Agent is missing or says nothing, what Dub made of it counts."""
    assert traits_of_click(user_agent, system, browser).system == expected


def test_a_macs_chrome_is_no_ipad() -> None:
    """Only a Mac that may be Safari's may be an iPad."""
    ipad = Traits("ios")
    assert compare(ipad, traits_of_click(None, "Mac", "Chrome")) == "system"
    assert compare(ipad, traits_of_click(None, "Mac", "Safari")) is Fit.AS_DESKTOP


@pytest.mark.parametrize(
    ("platform", "user_agent", "expected"),
    [
        ("ios", "Acme/12 CFNetwork/1568 Darwin/24.0.0", Traits("ios", "", 18)),
        (None, "Acme/12 CFNetwork/1568 Darwin/24.0.0", Traits("ios", "", 18)),
        ("ios", "okhttp/4.12.0", Traits("ios")),
        ("android", "curl/8.5.0", Traits("android")),
        (None, "curl/8.5.0", Traits()),
        (None, MAC_SAFARI, Traits()),
    ],
)
def test_an_opens_platform_goes_first(platform: Platform | None, user_agent: str, expected: Traits) -> None:
    """What the app says it runs on is believed, and a User-Agent that contradicts it says nothing."""
    assert traits_of_open(platform, user_agent) == expected


@pytest.mark.parametrize(
    ("opened", "clicked", "expected"),
    [
        (Traits("ios"), Traits("ios"), Fit.SYSTEM),
        (Traits("ios"), Traits("ios", "iphone", 17), Fit.SYSTEM),
        (Traits("ios", "", 17), Traits("ios", "iphone", 17), Fit.VERSION),
        (Traits("ios", "", 18), Traits("ios", "iphone", 17), "version"),
        (Traits("ios", "iphone14,5", 17), Traits("ios", "iphone", 17), Fit.VERSION),
        (Traits("ios", "iphone14,5", 17), Traits("ios", "iphone14,5", 17), Fit.MODEL),
        (Traits("ios", "iphone14,5", 17), Traits("ios", "iphone15,2", 17), "model"),
        (Traits("ios", "ipad", 17), Traits("ios", "iphone", 17), "model"),
        (Traits("ios", "ipad"), Traits("ios", "ipad"), Fit.SYSTEM),
        (Traits("android", "pixel 8", 14), Traits("android", "pixel 8", 14), Fit.MODEL),
        (Traits("android", "pixel 8"), Traits("android", "pixel 8a"), "model"),
        (Traits("android", "", 14), Traits("android", "pixel 8", 13), "version"),
        (Traits("android"), Traits("ios"), "system"),
        (Traits("ios"), Traits("android"), "system"),
        (Traits("ios"), Traits(), "system"),
        (Traits(), Traits(), "system"),
        (Traits(), Traits("ios"), "system"),
        (Traits("ios", "", 17), Traits("mac", "", 17), Fit.AS_DESKTOP),
        (Traits("ios", "ipad13,1", 17), Traits("mac"), Fit.AS_DESKTOP),
        (Traits("ios", "", 18), Traits("mac", "", 17), "version"),
        (Traits("ios", "iphone14,5"), Traits("mac"), "system"),
        (Traits("ios"), Traits("mac", "mac"), "system"),
        (Traits("android"), Traits("mac"), "system"),
        (Traits("android", "sm-x910", 14), Traits("linux"), Fit.AS_DESKTOP),
        (Traits("ios"), Traits("linux"), "system"),
        (Traits("android", "sm-s918b", 13), Traits("android", "samsung sm-s918b", 13), Fit.MODEL),
        (Traits("android", "samsung sm-s918b"), Traits("android", "sm-s918b"), Fit.MODEL),
        (Traits("android", "redmi 7"), Traits("android", "realme 7"), "model"),
        (Traits("android", "note 8"), Traits("android", "galaxy note 8"), "model"),
    ],
)
def test_whether_two_can_be_one(opened: Traits, clicked: Traits, expected: Fit | Misfit) -> None:
    """What both say must agree; what one leaves unsaid is no contradiction, and no agreement."""
    assert compare(opened, clicked) == expected
