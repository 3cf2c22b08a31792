"""Click events as Dub sends them, and as it might."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.clicks import Fault, UnreadEvent
from service.domain.device_traits import Traits
from service.domain.errors import InvalidDubResponse
from service.domain.match_rules import Click
from service.domain.models import Link
from service.domain.networks import Networks
from service.dub.click_events import ClickEvent, carried_query, read_events, split_page

NETWORKS = Networks(b"a secret for tests")
HOME = "203.0.113.7"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/17.5 Mobile/15E148 Safari/604.1"
)
CLICK: dict[str, Any] = {
    "id": "d0UtZqE0BZuBPrJS",
    "timestamp": "2026-08-01T12:00:00.250Z",
    "url": "https://acme.com/product/123?size=42&ref=ig",
    "country": "US",
    "device": "Mobile",
    "browser": "Mobile Safari",
    "os": "iOS",
    "ua": IPHONE,
    "trigger": "link",
    "qr": False,
    "ip": HOME,
}
LINK: dict[str, Any] = {
    "id": "link_1",
    "domain": "acme.link",
    "key": "fb-promo",
    "url": "https://acme.com/product/123?size=42",
    "ios": "https://apps.apple.com/app/id1?mt=8",
    "android": None,
    "tagIds": [],
}


def event(*, click: Any = None, link: Any = None, **fields: Any) -> dict[str, Any]:
    known = {"event": "click", "timestamp": "2026-08-01T12:00:00.250Z"}
    return {**known, "click": {**CLICK, **(click or {})}, "link": {**LINK, **(link or {})}, **fields}


def without(name: str) -> dict[str, Any]:
    return event() | {"click": {key: value for key, value in CLICK.items() if key != name}}


def seen(*events: Any) -> list[tuple[int, Click] | None]:
    read = read_events(split_page(msgspec.json.encode(events)))
    return [None if isinstance(each, UnreadEvent) else each.seen(NETWORKS) for each in read]


def test_an_event_becomes_a_click() -> None:
    """With its network, its time in milliseconds, its link, its device, and the query that it carried."""
    link = Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/123?size=42")
    click = Click("d0UtZqE0BZuBPrJS", 1_785_585_600_250, link, "ref=ig", Traits("ios", "iphone", 17))
    assert seen(event()) == [(NETWORKS.of(HOME).key, click)]


@pytest.mark.parametrize("name", ["ua", "trigger", "os", "device", "browser", "url", "timestamp"])
def test_what_dub_may_leave_out(name: str) -> None:
    """An event without a trigger, a User-Agent or anything else of that kind is still a click."""
    for given_event in (without(name), event(click={name: None})):
        (found,) = seen(given_event)
        assert found is not None
        assert found[1].device.system == "ios"
        assert found[1].at_ms == 1_785_585_600_250
        assert not found[1].opened_app


@pytest.mark.parametrize("ip", ["", None, "10.0.0.1", "100.64.3.4", "x"])
def test_an_address_that_is_nobodys_is_not_held(ip: str | None) -> None:
    """People in the EU have none, carriers' and private ones match nobody."""
    assert seen(event(click={"ip": ip})) == [None]


@pytest.mark.parametrize(
    ("trigger", "user_agent", "opened_app"),
    [
        ("link", IPHONE, False),
        ("qr", IPHONE, False),
        ("pageview", IPHONE, False),
        ("deeplink", IPHONE, True),
        (None, IPHONE, False),
        (None, None, False),
        (None, "Acme/12 CFNetwork/1568 Darwin/24.0.0", True),
        (None, "okhttp/4.12.0", True),
        (None, f"{IPHONE} firstopen-device/0123456789abcdef", True),
        ("link", "okhttp/4.12.0", False),
    ],
)
def test_an_apps_open_is_no_web_click(
    trigger: str | None, user_agent: str | None, opened_app: object
) -> None:
    """By its trigger; where there is none, by a User-Agent that only apps have."""
    ((_, click),) = filter(None, seen(event(click={"trigger": trigger, "ua": user_agent, "os": "iOS"})))
    assert click.opened_app is opened_app


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (None, "malformed"),
        (7, "malformed"),
        ("click", "malformed"),
        ([], "malformed"),
        ({}, "malformed"),
        ({"click": CLICK}, "malformed"),
        ({"link": LINK}, "malformed"),
        (event(click={"id": ""}), "malformed"),
        (event(click={"id": "x" * 65}), "malformed"),
        (event(click={"id": 7}), "malformed"),
        (event(click={"ip": 7}), "malformed"),
        (event(link={"key": None}), "malformed"),
        (event(link={"url": "x" * 32_001}), "malformed"),
        (event(click={"timestamp": "yesterday"}, timestamp="?"), "timestamp"),
        (event(click={"timestamp": 1_785_585_600}, timestamp={}), "timestamp"),
        (event(click={"timestamp": None}, timestamp=None), "timestamp"),
        (event(click={"timestamp": "1969-12-31T23:59:59Z"}, timestamp=None), "timestamp"),
    ],
)
def test_a_bad_event_costs_itself_alone(bad: Any, fault: Fault) -> None:
    """One that cannot be read is left out with the kind of its fault; those around it are read."""
    read = list(read_events(split_page(msgspec.json.encode([event(), bad, event()]))))
    assert isinstance(read[1], UnreadEvent)
    assert read[1].fault == fault
    assert isinstance(read[0], ClickEvent)
    assert read[2] == read[0]


@pytest.mark.parametrize(
    ("bad", "at_ms"),
    [
        (event(click={"id": 7}), 1_785_585_600_250),
        ({"timestamp": "2026-08-01T12:00:00.250Z", "click": [], "link": 7}, 1_785_585_600_250),
        (event(click={"id": 7, "timestamp": "?"}, timestamp="?"), None),
        ("click", None),
    ],
)
def test_a_bad_event_may_still_say_when_it_was(bad: Any, at_ms: int | None) -> None:
    """So that a sync can tell that it is older than what it wants."""
    (read,) = read_events(split_page(msgspec.json.encode([bad])))
    assert read == UnreadEvent("malformed", at_ms)


JAVASCRIPT = "Sat Aug 01 2026 12:00:00 GMT+0000 (Coordinated Universal Time)"
ISO = "2026-08-01T12:00:00.000Z"


@pytest.mark.parametrize("of_click", [JAVASCRIPT, ISO, None, "?", 7])
@pytest.mark.parametrize("of_event", [JAVASCRIPT, ISO])
def test_a_time_is_read_in_either_form_and_place(of_click: Any, of_event: str) -> None:
    """dub-api.md, "GET /events": a JavaScript date on the event, ISO on its click; take either in either."""
    for click_time, event_time in ((of_click, of_event), (of_event, of_click)):
        (found,) = seen(event(click={"timestamp": click_time}, timestamp=event_time))
        assert found is not None
        assert found[1].at_ms == 1_785_585_600_000


def test_the_time_of_the_click_comes_first() -> None:
    """It is the exact one: a JavaScript date text has no milliseconds."""
    (found,) = seen(event(timestamp=JAVASCRIPT))
    assert found is not None
    assert found[1].at_ms == 1_785_585_600_250


@pytest.mark.parametrize(
    "page", [b"", b"{}", b"null", b"[", b"[{}", b"\xff", b"[" * 10_000, b'{"error": {}}']
)
def test_a_page_that_is_none(page: bytes) -> None:
    """What is no list of events is Dub's failure, not no events."""
    with pytest.raises(InvalidDubResponse):
        split_page(page)


def test_times_have_a_zone() -> None:
    """One that says none is UTC; any other counts."""
    times = ["2026-08-01T12:00:00.25", "2026-08-01T14:00:00.25+02:00", "2026-08-01T12:00:00.250Z"]
    found = seen(*(event(click={"timestamp": each}) for each in times))
    assert {each and each[1].at_ms for each in found} == {1_785_585_600_250}


@pytest.mark.parametrize(
    ("clicked", "carried"),
    [
        ("https://acme.com/p?size=42&ref=ig", "ref=ig"),
        ("https://acme.com/p?size=42", ""),
        ("https://acme.com/p", ""),
        ("https://acme.com/p?size=43", "size=43"),
        ("https://acme.com/p?a=1&a=2&b=", "a=1&a=2&b="),
        ("https://apps.apple.com/app/id1?mt=8&ref=ig", "ref=ig"),
        (
            "https://play.google.com/store?id=com.acme&referrer=deepLink%3Dx&dub_id=1&ref=ig",
            "id=com.acme&ref=ig",
        ),
        ("https://acme.com/p?ref=a%20b%26c", "ref=a+b%26c"),
        ("https://acme.com/p?pw=x&qr=1&skip_deeplink_preview=1&dub-no-track=1&ref=ig", "ref=ig"),
        ("https://acme.com/p?x=" + "1" * 300, ""),
        ("https://acme.com/p?" + "&".join(f"p{n}=1" for n in range(60)), ""),
        ("http://[bad?x=1", ""),
        (None, ""),
    ],
)
def test_what_a_short_link_carried(clicked: str | None, carried: str) -> None:
    """The parameters that neither the destination nor a store's link has itself, within bounds."""
    targets = ["https://acme.com/p?size=42", "https://apps.apple.com/app/id1?mt=8", None]
    assert carried_query(clicked, targets) == carried


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*CLICK]), json, st.sampled_from(["id", "domain", "key", "url", "ios"]), json)
def test_no_event_is_an_error(click_field: str, one: Any, link_field: str, other: Any) -> None:
    """Whatever stands in a field, the event is a click or it is left out."""
    found = seen(event(click={click_field: one}, link={link_field: other}), event())
    assert found[1] is not None
