"""`/track/open`."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.support import (
    DOMAIN,
    IPHONE,
    LINKS,
    MAC,
    OKHTTP,
    PIXEL,
    PROMO,
    FakeClock,
    Sandbox,
    build,
    error_of,
)

HOUR_S = 3_600


async def test_open_answers_click_and_link(sandbox: Sandbox) -> None:
    """An open of a known link gets 16 letters or digits, and exactly the four documented link fields."""
    answer = await sandbox.open()
    assert re.fullmatch(r"[A-Za-z0-9]{16}", answer["clickId"])
    assert answer == {
        "clickId": answer["clickId"],
        "link": {
            "id": "link_promo",
            "domain": DOMAIN,
            "key": "fb-promo",
            "url": "https://acme.com/product/123?ref=mail&size=42",
        },
    }


@pytest.mark.parametrize(
    ("deep_link", "domain", "key", "link_id"),
    [
        ("acme.link/fb-promo", DOMAIN, "fb-promo", "link_promo"),
        ("https://www.ACME.link:8001/fb-promo?x=1#top", DOMAIN, "fb-promo", "link_promo"),
        ("http://user@acme.link/FB-Promo", DOMAIN, "FB-Promo", "link_promo"),
        (" https://acme.link/fb-promo ", DOMAIN, "fb-promo", "link_promo"),
        ("https://acme.link", DOMAIN, "_root", "link_root"),
        ("https://acme.link/?x=1", DOMAIN, "_root", "link_root"),
        ("https://other.link/fb-promo", "other.link", "fb-promo", "link_other"),
    ],
)
async def test_deep_link_forms(sandbox: Sandbox, deep_link: str, domain: str, key: str, link_id: str) -> None:
    """Scheme, `www.`, port and query never matter; the path's case is kept in the answer."""
    link = (await sandbox.open(deep_link))["link"]
    assert (link["domain"], link["key"], link["id"]) == (domain, key, link_id)


@pytest.mark.parametrize(
    "deep_link",
    [
        "https://acme.link/nope",
        "https://unknown.link/fb-promo",
        "acme://product/1",
        "https://acme.link/fb-promo/",
    ],
)
async def test_unknown_link_is_404(sandbox: Sandbox, deep_link: str) -> None:
    """An unknown domain or key is Dub's 404, in its words."""
    response = await sandbox.post("/track/open", {"deepLink": deep_link})
    assert error_of(response) == (404, "not_found", f"Deep link not found: {deep_link}")


async def test_unknown_link_never_falls_back_to_the_domain(sandbox: Sandbox) -> None:
    """A deep link that is not found is a 404, although its domain has a store-bound click from here."""
    await sandbox.click(ua=IPHONE)
    body = {"deepLink": "https://acme.link/nope", "dubDomain": DOMAIN}
    assert (await sandbox.post("/track/open", body)).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b'{"deepLink": "\xff"}', 400, "JSON"),
        (b'{"deepLink": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", 400, "JSON"),
        (b"[]", 422, "object"),
        ({}, 422, "deepLink"),
        ({"deepLink": None, "dubDomain": None}, 422, "deepLink"),
        ({"deepLink": "", "dubDomain": DOMAIN}, 422, "deepLink"),
        ({"deepLink": PROMO, "dubDomain": None}, 422, "dubDomain"),
        ({"deepLink": 1}, 422, "deepLink"),
        ({"dubDomain": ["acme.link"]}, 422, "dubDomain"),
        ({"deepLink": "hello world"}, 422, "deepLink"),
        ({"deepLink": "no-dot"}, 422, "deepLink"),
        ({"deepLink": PROMO + "?" + "x" * 32_000}, 422, "deepLink"),
    ],
)
async def test_bad_bodies(sandbox: Sandbox, body: Any, status: int, word: str) -> None:
    """What is not JSON is a 400; a field that breaks a rule is a 422 that names it."""
    got, _, message = error_of(await sandbox.post("/track/open", body))
    assert got == status
    assert word in message


async def test_longest_deep_link_is_taken(sandbox: Sandbox) -> None:
    """A deep link of exactly 32,000 characters is within the limit."""
    deep_link = f"{PROMO}?{'x' * 32_000}"[:32_000]
    assert (await sandbox.open(deep_link))["link"]["id"] == "link_promo"


async def test_same_device_inside_the_hour_is_one_click(sandbox: Sandbox, clock: FakeClock) -> None:
    """IP and User-Agent on one link give one clickId for an hour, counted once, and then another."""
    first = await sandbox.open()
    clock.advance(HOUR_S - 1)
    assert (await sandbox.open())["clickId"] == first["clickId"]
    assert (await sandbox.link())["clicks"] == 1
    clock.advance(2)
    assert (await sandbox.open())["clickId"] != first["clickId"]
    assert (await sandbox.link())["clicks"] == 2


async def test_the_trap(sandbox: Sandbox) -> None:
    """Two phones behind one address with one User-Agent share a click: Dub cannot tell them apart."""
    anna = await sandbox.open(ip="203.0.113.7")
    ben = await sandbox.open(ip="203.0.113.7")
    assert anna["clickId"] == ben["clickId"]


@pytest.mark.parametrize(
    "other",
    [{"ip": "203.0.113.8", "ua": OKHTTP}, {"ip": "203.0.113.7", "ua": f"{OKHTTP} firstopen-device/0123"}],
)
async def test_another_address_or_agent_is_another_click(sandbox: Sandbox, other: dict[str, str]) -> None:
    """A difference in IP or in User-Agent is a different device."""
    first = await sandbox.open(ip="203.0.113.7", ua=OKHTTP)
    assert (await sandbox.open(**other))["clickId"] != first["clickId"]


async def test_another_link_is_another_click(sandbox: Sandbox) -> None:
    """Deduplication is per link, and per domain."""
    clicks = {
        (await sandbox.open(link))["clickId"]
        for link in (PROMO, "https://acme.link/plain", "https://other.link/fb-promo")
    }
    assert len(clicks) == 3


async def test_the_edges_headers_count_from_loopback_only(clock: FakeClock) -> None:
    """X-Real-IP and the country count from loopback only: a stranger speaks for itself."""
    stranger = build(clock, peer="198.51.100.9")
    async with stranger.http:
        first = await stranger.open(ip="203.0.113.7")
        assert (await stranger.open(ip="203.0.113.8"))["clickId"] == first["clickId"]
        await stranger.click("/plain", x_vercel_ip_country="DE", x_vercel_ip_city="Berlin")
        (web, _) = await stranger.events()
        assert (web["click"]["ip"], web["click"]["country"], web["click"]["city"]) == (
            "198.51.100.9",
            "Unknown",
            "Unknown",
        )


@pytest.mark.parametrize(
    ("sent", "ip"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("nonsense", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
async def test_real_ip(sandbox: Sandbox, sent: str, ip: str) -> None:
    """The caller is whom X-Real-IP names; mapped IPv4 is IPv4; without an address it is the peer."""
    await sandbox.open(ip=sent)
    assert (await sandbox.events())[0]["click"]["ip"] == ip


async def test_forwarded_for_is_ignored(sandbox: Sandbox) -> None:
    """Dub takes a caller's address from `X-Real-IP`, never from `X-Forwarded-For`.

    dub-api.md, "The trap: Dub identifies a device by the caller's IP and User-Agent".
    """
    headers = {"x_forwarded_for": "198.51.100.1"}
    await sandbox.post("/track/open", {"deepLink": PROMO}, x_real_ip="203.0.113.7", **headers)
    assert (await sandbox.events())[0]["click"]["ip"] == "203.0.113.7"
    await sandbox.post("/track/open", {"deepLink": PROMO}, **headers)
    assert (await sandbox.events())[0]["click"]["ip"] == "127.0.0.1"


@pytest.mark.parametrize("way", ["header", "query"])
async def test_no_track_records_nothing(sandbox: Sandbox, way: str) -> None:
    """`dub-no-track` answers the link without a clickId, and leaves no event and no count behind."""
    path = "/track/open" + ("?dub-no-track=1" if way == "query" else "")
    headers = {"dub-no-track": "1"} if way == "header" else {}
    answer = (await sandbox.post(path, {"deepLink": PROMO}, **headers)).json()
    assert answer["clickId"] is None
    assert answer["link"]["id"] == "link_promo"
    assert await sandbox.events() == []
    assert (await sandbox.link())["clicks"] == 0


@pytest.mark.parametrize(
    "closed", [{"disabled": True}, {"expiresAt": "2020-01-01T00:00:00Z"}, {"password": "tiger"}]
)
async def test_closed_links_still_open_the_app(sandbox: Sandbox, closed: dict[str, Any]) -> None:
    """Disabled, expired and password-protected links resolve here, although the web refuses them."""
    await sandbox.change_link(**closed)
    assert (await sandbox.open())["clickId"]


async def test_store_bound_click_is_found_by_address(sandbox: Sandbox) -> None:
    """The app's first open gets the click that led to the store, again and again, from any User-Agent."""
    await sandbox.click(ip="203.0.113.7", ua=PIXEL)
    (click,) = await sandbox.events()
    first = await sandbox.first_open(ip="203.0.113.7")
    assert first["clickId"] == click["click"]["id"]
    assert first["link"] == {
        "id": "link_promo",
        "domain": DOMAIN,
        "key": "fb-promo",
        "url": "https://acme.com/product/123?ref=mail&size=42",
    }
    assert await sandbox.first_open(ip="203.0.113.7", ua=OKHTTP + "x") == first


async def test_any_store_bound_click_is_answered(sandbox: Sandbox, clock: FakeClock) -> None:
    """Of clicks on several links from one address any one is answered, always the same: not the last.

    dub-api.md, "POST /track/open": one scan of Redis, whose first key wins.
    """
    await sandbox.change_link("link_plain", android="https://play.google.com/store/apps/details?id=x")
    phones = [f"203.0.113.{number}" for number in range(1, 21)]
    answered: list[list[str]] = []
    for order in (("/fb-promo", "/plain"), ("/plain", "/fb-promo")):
        for path in order:
            for ip in phones:
                await sandbox.click(path, ip=ip, ua=PIXEL)
            clock.advance(1)
        answered.append([(await sandbox.first_open(ip=ip))["link"]["key"] for ip in phones])
        clock.advance(HOUR_S)
    assert answered[0] == answered[1]
    assert set(answered[0]) == {"fb-promo", "plain"}


async def test_a_scan_may_find_nothing(sandbox: Sandbox) -> None:
    """In a large Redis the scan may meet no key of this address (dub-api.md, POST /track/open)."""
    await sandbox.click(ip="203.0.113.7", ua=PIXEL)
    await sandbox.settings(firstOpensUnfound=True)
    assert await sandbox.first_open(ip="203.0.113.7") == {"clickId": None, "link": None}
    await sandbox.settings(firstOpensUnfound=False)
    assert (await sandbox.first_open(ip="203.0.113.7"))["clickId"]


async def test_repeated_click_does_not_extend_the_hour(sandbox: Sandbox, clock: FakeClock) -> None:
    """A store-bound click that is only repeated stays findable for an hour from the first time."""
    await sandbox.click(ip="203.0.113.7", ua=PIXEL)
    clock.advance(HOUR_S / 2)
    await sandbox.click(ip="203.0.113.7", ua=PIXEL)
    clock.advance(HOUR_S / 2)
    assert await sandbox.first_open(ip="203.0.113.7") == {"clickId": None, "link": None}


@pytest.mark.parametrize(
    ("clicked", "asked", "wait_s"),
    [
        ({"ip": "203.0.113.7", "ua": PIXEL}, {"ip": "203.0.113.8"}, 0),
        ({"ip": "203.0.113.7", "ua": PIXEL}, {"ip": "203.0.113.7", "domain": "other.link"}, 0),
        ({"ip": "203.0.113.7", "ua": PIXEL}, {"ip": "203.0.113.7"}, HOUR_S),
        ({"ip": "203.0.113.7", "ua": MAC}, {"ip": "203.0.113.7"}, 0),
        ({"path": "/plain", "ip": "203.0.113.7", "ua": PIXEL}, {"ip": "203.0.113.7"}, 0),
    ],
    ids=[
        "another address",
        "another domain",
        "an hour later",
        "not store-bound (desktop)",
        "no store target",
    ],
)
async def test_nothing_is_matched(
    sandbox: Sandbox, clock: FakeClock, clicked: dict[str, str], asked: dict[str, str], wait_s: int
) -> None:
    """Only a store-bound click from this address on this domain in the past hour is an answer."""
    await sandbox.click(**clicked)
    clock.advance(wait_s)
    assert await sandbox.first_open(**asked) == {"clickId": None, "link": None}


async def test_domain_is_a_glob(sandbox: Sandbox) -> None:
    """`*` as dubDomain matches every domain, as at Dub: whoever passes it on unchecked finds out here."""
    await sandbox.click(ua=PIXEL)
    assert (await sandbox.first_open("*"))["clickId"]


async def test_content_type_does_not_matter(sandbox: Sandbox) -> None:
    """Dub parses whatever it is sent as JSON, and so does the sandbox."""
    response = await sandbox.post("/track/open", {"deepLink": PROMO}, content_type="text/plain")
    assert response.status_code == 200


async def test_huge_body_is_refused(sandbox: Sandbox) -> None:
    """A body over what Dub's host takes is a 413, not a crash."""
    assert error_of(await sandbox.post("/track/open", b" " * 4_500_001))[0] == 413


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["deepLink", "dubDomain", "x"]), st.text() | st.integers() | st.none())
)
async def test_no_body_breaks_it(body: dict[str, Any]) -> None:
    """Whatever JSON object is reported, the answer is a 200, a 404 or a 422 in Dub's shape."""
    sandbox = build(FakeClock(), links=LINKS[:1])
    async with sandbox.http:
        response = await sandbox.post("/track/open", body)
    if response.status_code == 200:
        assert set(response.json()) == {"clickId", "link"}
    else:
        assert error_of(response)[0] in {404, 422}
