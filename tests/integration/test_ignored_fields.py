"""An optional field never loses the open: any JSON object is answered 200, and what was dropped is named."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.telemetry import Event
from tests.integration.test_metrics import scraped
from tests.support import ANNA, FB_PROMO, SERVER_KEY, FakeDub, LogLines, Service

AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
REFERRER = "deepLink=https%3A%2F%2Facme.link%2Ffb-promo"
FIELDS = [
    "deepLink",
    "installReferrer",
    "clipboard",
    "dubDomain",
    "installId",
    "platform",
    "appVersion",
    "budgetMs",
    "consent",
    "installedAt",
    "referrerClickedAt",
    "installBeganAt",
]

# beside a good deep link: what is dropped, and named
UNUSABLE: list[tuple[str, Any]] = [
    ("installReferrer", "x" * 9000),
    ("clipboard", "x" * 3000),
    ("clipboard", 7),
    ("dubDomain", "x" * 254),
    ("dubDomain", "*"),
    ("dubDomain", "acme.*"),
    ("dubDomain", "https://acme.link"),
    ("dubDomain", 7),
    ("installId", "x" * 129),
    ("installId", "short"),
    ("installId", "undefined"),
    ("installId", "00000000-0000-0000-0000-000000000000"),
    ("installId", [ANNA]),
    ("platform", {"os": "ios"}),
    ("appVersion", "1" * 65),
    ("appVersion", False),
    ("budgetMs", "fast"),
    ("budgetMs", [1500]),
    ("consent", "true"),
    ("installedAt", "yesterday"),
    ("referrerClickedAt", {}),
    ("installBeganAt", True),
]

# beside a good deep link: what is read, or absent
USABLE: list[tuple[str, Any]] = [
    *[(field, absent) for field in FIELDS[1:] for absent in (None, "", " \n")],
    ("installReferrer", "utm_source=x\n"),
    ("dubDomain", "acme.link\n"),
    ("dubDomain", "WWW.Go.Acme.com"),
    ("platform", "iOS"),
    ("platform", "macos"),
    ("platform", "ohos"),
    ("appVersion", 12),
    ("budgetMs", 1500.0),
    ("budgetMs", "1500"),
    ("budgetMs", 99),
    ("budgetMs", 10**400),
    ("openId", 10**4200),
    ("installedAt", "1785585600"),
    ("installId", 123456789),
    ("future", {"a": [1]}),
    ("openId", "\ud83d"),
]

LINKS = [
    "fb-promo",
    "https://",
    "https://acme.link:port/x",
    "https://anna:secret@acme.link/x",
    "acme://anna@x/y",
    "https://acme.link/\u0000x",
    "https://acme.com/a\r\nb",
    "https://acme.link/\u0084x",
    "https://acme.link/\ud83d",
    "https://acme.link/" + "x" * 32_000,
    3,
    ["https://acme.link/fb-promo"],
]


@pytest.fixture(autouse=True)
def nothing_goes_wrong(logs: LogLines) -> Iterator[None]:
    """Hold for every case here: no mistake of ours is logged."""
    yield
    assert logs.events(Event.REQUEST_FAILED) == []
    assert logs.events(Event.OPEN_FAILED) == []


@pytest.mark.parametrize(("field", "value"), UNUSABLE, ids=lambda value: str(value)[:20])
async def test_a_field_that_cannot_be_used_is_dropped_and_named(
    service: Service, field: str, value: Any
) -> None:
    """The good link beside it is answered, and the header says what was dropped."""
    reply = await service.report({"deepLink": FB_PROMO, field: value})
    assert reply.status_code == 200, reply.text
    assert (reply.json()["route"]["screen"], reply.json()["clickId"]) == ("product", "click00000000000")
    assert reply.headers["firstopen-ignored"] == field
    assert (await scraped(service))[f'firstopen_ignored_fields_total{{field="{field}"}}'] == 1


@pytest.mark.parametrize(("field", "value"), USABLE, ids=lambda value: ascii(value)[:20])
async def test_what_phones_send_is_read(service: Service, field: str, value: Any) -> None:
    """Blank text is absent, and what is meant is understood; nothing is named."""
    reply = await service.report({"deepLink": FB_PROMO, field: value})
    assert (reply.status_code, reply.json()["clickId"]) == (200, "click00000000000")
    assert "firstopen-ignored" not in reply.headers
    assert "firstopen_ignored_fields_total" not in "".join(await scraped(service))


@pytest.mark.parametrize("link", LINKS, ids=lambda link: ascii(link)[:30])
async def test_a_deep_link_that_cannot_be_read_leaves_the_rest(
    service: Service, dub: FakeDub, link: Any
) -> None:
    """The next evidence is used in its place, and nothing of the link is repeated."""
    reply = await service.report({"deepLink": link, "installReferrer": REFERRER, "installId": ANNA})
    assert (reply.status_code, reply.json()["match"]["type"]) == (200, "install_referrer")
    assert reply.headers["firstopen-ignored"] == "deepLink"
    assert "secret" not in reply.text
    assert dub.calls("/track/open") == 1


async def test_a_link_with_a_line_end_is_read(service: Service) -> None:
    """White space around a deep link is dropped, also an empty link beside a referrer."""
    reply = await service.report({"deepLink": f"{FB_PROMO}\n"})
    assert (reply.json()["route"]["screen"], "firstopen-ignored" in reply.headers) == ("product", False)
    reply = await service.report({"deepLink": "", "installReferrer": REFERRER, "installId": ANNA})
    assert (reply.json()["match"]["type"], "firstopen-ignored" in reply.headers) == (
        "install_referrer",
        False,
    )


@pytest.mark.parametrize("body", [{}, {"deepLink": None, "dubDomain": None}, {"installId": ANNA}, {"x": 1}])
async def test_nothing_to_go_by_is_a_first_launch_without_a_link(
    service: Service, dub: FakeDub, body: dict[str, Any]
) -> None:
    """It lands on the default screen."""
    reply = await service.report(body)
    assert (reply.status_code, reply.json()["route"]["screen"]) == (200, "home")
    assert reply.json()["match"]["type"] == "none"
    assert dub.requests == []


async def test_several_fields_are_named_once_each(service: Service) -> None:
    """The header lists wire names, separated by commas."""
    reply = await service.report({"deepLink": 1, "clipboard": 2, "installId": 3, "nonsense": 4})
    assert (reply.status_code, reply.headers["firstopen-ignored"]) == (200, "deepLink, clipboard, installId")


async def test_every_field_at_its_limit(service: Service) -> None:
    """The limits themselves are allowed."""
    reply = await service.report(
        {
            "deepLink": "https://elsewhere.example/" + "x" * (32_000 - 26),
            "installReferrer": "x" * 8192,
            "clipboard": "x" * 2048,
            "installId": "xy" * 64,
            "appVersion": "1" * 64,
            "budgetMs": 10_000,
        }
    )
    assert (reply.status_code, "firstopen-ignored" in reply.headers) == (200, False)


async def test_a_placeholder_merges_no_two_phones(service: Service) -> None:
    """Two phones that send the same placeholder get a click each."""
    body = {"deepLink": FB_PROMO, "installId": "undefined"}
    clicks = [
        (await service.report(body, User_Agent=agent)).json()["clickId"] for agent in ("phone/1", "phone/2")
    ]
    assert len({*clicks}) == 2


async def test_the_trace_names_what_was_dropped(service: Service) -> None:
    """Later, too."""
    reply = await service.report({"deepLink": FB_PROMO, "installReferrer": "x" * 9000, "installId": ANNA})
    trace = await service.get(f"/v1/opens/{reply.json()['openId']}/trace", headers=AS_SERVER)
    assert trace.json()["ignored"] == ["installReferrer"]


async def test_a_dry_run_is_as_tolerant(service: Service) -> None:
    """It names what it dropped in its trace, and counts nothing."""
    body = {"deepLink": f"{FB_PROMO}\n", "clipboard": 7, "userAgent": "x" * 3000, "ip": " 203.0.113.7 "}
    reply = await service.post("/v1/opens/dry-run", json=body, headers=AS_SERVER)
    assert (reply.status_code, reply.json()["answer"]["route"]["screen"]) == (200, "product")
    assert reply.json()["trace"]["ignored"] == ["clipboard", "userAgent"]
    assert "firstopen_ignored_fields_total" not in "".join(await scraped(service))


@pytest.mark.parametrize("ip", ["x", "203.0.113", 7, ["203.0.113.7"], "1" * 65])
async def test_a_dry_run_wants_a_right_address(service: Service, ip: Any) -> None:
    """An engineer asks it, about this address: another answer would mislead."""
    reply = await service.post("/v1/opens/dry-run", json={"ip": ip}, headers=AS_SERVER)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == "ip: expected an IPv4 or IPv6 address"


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), _VALUES))
async def test_every_json_object_is_answered(service: Service, body: dict[str, Any]) -> None:
    """200 for whatever is inside, but a domain of somebody else's; only our own fields are named."""
    reply = await service.report(json.dumps(body).encode())
    foreign = reply.status_code == 403 and "dubDomain" in body
    assert reply.status_code == 200 or foreign, reply.text
    assert {*filter(None, reply.headers.get("firstopen-ignored", "").split(", "))} <= {*FIELDS} & {*body}
