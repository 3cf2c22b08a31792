"""An open gets its route: the main job, over HTTP, with a scripted Dub underneath."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    ENV,
    FB_PROMO,
    IPHONE,
    KEY,
    OTHER_KEY,
    FakeClock,
    FakeDub,
    LogLines,
    Service,
    running,
)


async def test_an_open_gets_its_route_and_click(service: Service) -> None:
    """A link that Dub knows lands on its screen, with the clicked link's query laid over."""
    answer = await service.open(f"{FB_PROMO}?ref=ig", install_id=ANNA)
    assert answer.click_id
    assert len(answer.click_id) == 16
    assert answer.link
    assert (answer.link.domain, answer.link.key, answer.link.url) == (
        "acme.link",
        "fb-promo",
        "https://acme.com/product/123",
    )
    assert (answer.route.screen, answer.route.params, answer.route.reason) == (
        "product",
        {"id": "123"},
        "matched",
    )
    assert answer.route.url == "https://acme.com/product/123?ref=ig"
    assert (answer.match.type, answer.match.guaranteed) == ("deep_link", True)
    assert (answer.source, answer.pending, answer.repeat) == ("dub", False, False)


async def test_the_reply_has_exactly_the_contracts_fields(service: Service) -> None:
    """The JSON that leaves is the wire contract's, camelCase, nothing more."""
    body = (await service.report({"deepLink": FB_PROMO, "installId": ANNA})).json()
    assert list(body) == [
        "openId",
        "clickId",
        "link",
        "route",
        "match",
        "gate",
        "source",
        "pending",
        "repeat",
    ]
    assert list(body["link"]) == ["id", "domain", "key", "url"]
    assert list(body["route"]) == ["screen", "params", "url", "reason"]
    assert list(body["match"]) == ["type", "guaranteed"]
    assert len(bytes.fromhex(body["openId"])) == 16


async def test_retry_gets_the_same_click(service: Service, dub: FakeDub) -> None:
    """The same open reported twice reaches Dub once and gets one clickId."""
    first = await service.open(FB_PROMO, install_id=ANNA)
    again = await service.open("HTTP://www.ACME.link:443/fb-promo", install_id=ANNA)
    assert again.click_id == first.click_id
    assert again.open_id == first.open_id
    assert again.repeat
    assert again.source == "cache"
    assert dub.calls("/track/open") == 1


async def test_two_devices_never_share_a_click(service: Service, dub: FakeDub) -> None:
    """Same address, same User-Agent, same link, same second: two installs get two clickIds."""
    anna = await service.open(FB_PROMO, install_id=ANNA)
    ben = await service.open(FB_PROMO, install_id=BEN)
    assert anna.click_id != ben.click_id
    assert anna.open_id != ben.open_id
    assert not ben.repeat
    assert dub.calls("/track/open") == 2


async def test_each_device_has_its_own_user_agent_at_dub(service: Service, dub: FakeDub) -> None:
    """Dub sees the client's User-Agent with a device token, stable per install."""
    await service.open(FB_PROMO, install_id=ANNA)
    await service.open("https://acme.link/invite", install_id=ANNA)
    await service.open(FB_PROMO, install_id=BEN)
    first, second, third = (request.headers["User-Agent"] for request in dub.requests)
    assert first.startswith(f"{IPHONE} firstopen-device/")
    assert first == second
    assert first != third


async def test_without_an_install_we_are_as_exact_as_dub(service: Service, dub: FakeDub) -> None:
    """Without an installId a device is its address and User-Agent."""
    await service.open(FB_PROMO, headers={"X-Forwarded-For": "203.0.113.7"})
    again = await service.open(FB_PROMO, headers={"X-Forwarded-For": "203.0.113.7"})
    other = await service.open(FB_PROMO, headers={"X-Forwarded-For": "203.0.113.8"})
    assert again.repeat
    assert not other.repeat
    assert dub.calls("/track/open") == 2


async def test_an_answer_is_repeated_for_an_hour(service: Service, dub: FakeDub, clock: FakeClock) -> None:
    """After the answer's time to live the same open is a new one."""
    first = await service.open(FB_PROMO, install_id=ANNA)
    clock.advance(3599)
    assert (await service.open(FB_PROMO, install_id=ANNA)).repeat
    clock.advance(2)
    later = await service.open(FB_PROMO, install_id=ANNA)
    assert not later.repeat
    assert later.open_id != first.open_id
    assert dub.calls("/track/open") == 2


async def test_the_query_is_part_of_the_open(service: Service, dub: FakeDub) -> None:
    """The same link with another query is another open with its own route."""
    await service.open(f"{FB_PROMO}?ref=ig", install_id=ANNA)
    other = await service.open(f"{FB_PROMO}?ref=tt", install_id=ANNA)
    assert not other.repeat
    assert other.route.url == "https://acme.com/product/123?ref=tt"
    assert dub.calls("/track/open") == 2


async def test_a_repeat_from_a_newer_build_is_routed_anew(service: Service, dub: FakeDub) -> None:
    """The click stays, the screen follows the build that asks."""
    old = await service.open("https://acme.link/invite", install_id=ANNA, app_version="2.9")
    new = await service.open("https://acme.link/invite", install_id=ANNA, app_version="2.10")
    assert (old.route.screen, old.route.reason) == ("update_invite", "update_required")
    assert (new.route.screen, new.route.reason) == ("invite", "matched")
    assert new.repeat
    assert new.click_id == old.click_id
    assert dub.calls("/track/open") == 1


async def test_an_unreadable_version_is_new_enough_and_logged(service: Service, logs: LogLines) -> None:
    """A version that cannot be read blocks nobody, and leaves a log event."""
    answer = await service.open("https://acme.link/invite", install_id=ANNA, app_version="nightly")
    assert answer.route.reason == "matched"
    assert [line["shape"] for line in logs.events("open.version_unreadable")] == ["aaaaaaa"]


async def test_keys_keep_their_case(service: Service) -> None:
    """Links whose keys differ by case are different links."""
    lower = await service.open("https://acme.link/fb-promo", install_id=ANNA)
    mixed = await service.open("https://acme.link/Fb-Promo", install_id=ANNA)
    assert lower.route.params == {"id": "123"}
    assert mixed.route.params == {"id": "999"}


async def test_a_destination_without_a_pattern_is_unlisted(service: Service) -> None:
    """No pattern: the default screen, with the url for the web; the clicked query overrides."""
    answer = await service.open("https://acme.link/summer?sort=price", install_id=ANNA)
    assert (answer.route.screen, answer.route.reason) == ("home", "unlisted")
    assert answer.route.url == "https://acme.com/category/shoes?sort=price&size=42"
    assert answer.click_id


async def test_an_unsafe_destination_is_not_handed_out(service: Service) -> None:
    """javascript: is a 200 with the default screen and no url anywhere; the click still counts."""
    answer = await service.open("https://acme.link/evil", install_id=ANNA)
    assert (answer.route.screen, answer.route.url, answer.route.reason) == ("home", None, "default")
    assert answer.link
    assert answer.link.url is None
    assert answer.click_id


async def test_the_apps_own_scheme_is_a_destination(service: Service) -> None:
    """A link may lead to one of the app's own schemes."""
    answer = await service.open("https://acme.link/own", install_id=ANNA)
    assert (answer.route.screen, answer.route.url) == ("product", "acme://product/5")


@pytest.mark.parametrize(
    ("deep_link", "screen", "reason", "url"),
    [
        ("acme://product/5", "product", "matched", "acme://product/5"),
        ("https://acme.com/product/8#top", "product", "matched", "https://acme.com/product/8#top"),
        ("https://www.acme.com/x", "home", "unlisted", "https://www.acme.com/x"),
        ("javascript:alert(1)", "home", "default", None),
        ("https://globex.link/x", "home", "unlisted", "https://globex.link/x"),
    ],
)
async def test_a_link_that_is_not_dubs_never_goes_there(
    service: Service, dub: FakeDub, deep_link: str, screen: str, reason: str, url: str | None
) -> None:
    """The app's own website, its schemes and other apps' domains are routed as they are."""
    answer = await service.open(deep_link, install_id=ANNA)
    assert (answer.route.screen, answer.route.reason, answer.route.url) == (screen, reason, url)
    assert (answer.source, answer.match.type, answer.click_id, answer.pending) == (
        "parsed",
        "none",
        None,
        False,
    )
    assert (await service.open(deep_link, install_id=ANNA)).repeat
    assert dub.requests == []


async def test_an_open_with_no_link_lands_on_the_default_screen(service: Service, dub: FakeDub) -> None:
    """With nothing but a domain, the answer is the default screen and no match."""
    answer = await service.open(None, dub_domain="acme.link", install_id=ANNA)
    assert (answer.route.screen, answer.route.reason, answer.match.type) == ("home", "default", "none")
    assert answer.link is None
    assert dub.requests == []


async def test_an_unknown_link_is_asked_for_once_a_minute(
    service: Service, dub: FakeDub, clock: FakeClock
) -> None:
    """Dub's 404 is an answer; neither this device nor another asks again for a minute."""
    gone = "https://acme.link/gone"
    first = await service.open(gone, install_id=ANNA)
    assert (first.match.type, first.route.reason, first.link, first.pending) == (
        "none",
        "default",
        None,
        False,
    )
    assert first.source == "dub"
    assert (await service.open(gone, install_id=ANNA)).repeat
    ben = await service.open(gone, install_id=BEN)
    assert (ben.repeat, ben.source) == (False, "cache")
    assert dub.calls("/track/open") == 1
    dub.links["acme.link/gone"] = "https://acme.com/product/1"
    clock.advance(59)
    assert (await service.open(gone, install_id=BEN)).match.type == "none"
    clock.advance(2)
    assert (await service.open(gone, install_id=BEN)).match.type == "deep_link"
    assert (await service.open(gone, install_id=ANNA)).match.type == "deep_link"


async def test_an_open_can_be_asked_for_again_by_its_own_app(service: Service) -> None:
    """GET /v1/opens/{openId} answers the same; another app's key, or a wrong id, gets a 404."""
    answer = await service.open(f"{FB_PROMO}?ref=ig", install_id=ANNA)
    assert await service.recall(answer.open_id) == answer
    other = await service.get(f"/v1/opens/{answer.open_id}", headers={"Authorization": f"Bearer {OTHER_KEY}"})
    unknown = await service.get("/v1/opens/0123")
    assert (other.status_code, unknown.status_code) == (404, 404)
    assert other.json()["error"] == unknown.json()["error"]
    assert unknown.json()["error"]["code"] == "not_found"


async def test_apps_do_not_share_answers(service: Service) -> None:
    """One installId in two apps is two devices, and each app has its own domains."""
    mine = await service.open(FB_PROMO, install_id=ANNA)
    theirs = await service.open(FB_PROMO, install_id=ANNA, headers={"Authorization": f"Bearer {OTHER_KEY}"})
    assert mine.match.type == "deep_link"
    assert (theirs.match.type, theirs.route.screen, theirs.repeat) == ("none", "start", False)


async def test_nothing_of_the_callers_reaches_dub_but_its_user_agent(service: Service, dub: FakeDub) -> None:
    """No key, cookie, address or installId goes to Dub; nor does Dub's own key, where none is needed."""
    await service.open(
        FB_PROMO,
        install_id=ANNA,
        headers={
            "Cookie": "session=1",
            "X-Forwarded-For": "203.0.113.7",
            "X-Custom": "x",
            "Accept-Language": "de",
        },
    )
    (request,) = dub.requests
    assert set(request.headers) == {"content-type", "user-agent"}
    assert json.loads(request.content) == {"deepLink": FB_PROMO}
    raw = str(request.headers.raw) + request.content.decode()
    for secret in (KEY, "dub_secret_of_acme", "session", "203.0.113.7", ANNA):
        assert secret not in raw


async def test_nothing_personal_is_logged(service: Service, logs: LogLines) -> None:
    """No address, User-Agent, link, installId or key is in a log line, even at debug level."""
    private = "https://acme.link/somebodys-private-text"
    headers = {"X-Forwarded-For": "203.0.113.7"}
    await service.open(FB_PROMO, install_id=ANNA, headers=headers)
    await service.open(FB_PROMO, install_id=ANNA, headers=headers)
    await service.open(private, install_id=ANNA, headers=headers)
    await service.report({"deepLink": "not a url", "installId": ANNA}, **headers)
    assert logs.events("open.resolved")
    assert logs.events("open.repeated")
    assert logs.events("open.unknown_link")
    for secret in ("203.0.113.7", "CFNetwork", "somebodys", "not a url", "acme.link", ANNA, KEY):
        assert secret not in logs.text


async def test_nothing_personal_is_logged_when_things_go_wrong(
    service: Service, dub: FakeDub, logs: LogLines
) -> None:
    """Late, degraded and failed opens leave no more of a person in the log than good ones."""
    private = "https://acme.link/somebodys-private-text?mail=anna@example.com"
    headers = {"X-Forwarded-For": "203.0.113.7"}

    async def fail(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500, text="203.0.113.7 somebodys")

    async def explode(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("203.0.113.7 somebodys")

    dub.blocked = asyncio.Event()
    await service.open(private, install_id=ANNA, budget_ms=100, headers=headers, app_version="anna@example")
    dub.blocked.set()
    dub.script = fail
    await service.open(private, install_id=BEN, headers=headers)
    dub.script = explode
    another = private.replace("text", "note")  # the first is not asked about again: Dub answers badly for it
    await service.open(another, install_id="install-carl", headers=headers)
    for event in ("open.late", "open.degraded", "open.failed", "open.version_unreadable"):
        assert logs.events(event), event
    for secret in ("203.0.113.7", "CFNetwork", "somebodys", "anna", "acme.link", ANNA, BEN, KEY):
        assert secret not in logs.text


async def test_forwarded_addresses_are_believed_only_from_proxies(dub: FakeDub, clock: FakeClock) -> None:
    """X-Forwarded-For tells devices apart behind our proxies, however often it comes, and nowhere else."""
    env = {**ENV, "FIRSTOPEN_FORWARDED_ALLOW_IPS": "10.0.0.0/8"}
    app = create_app(parse(CONFIG, env), transport=dub, clock=clock)

    async def repeats(peer: str, *forwarded: str) -> bool:
        async with Service(app, peer) as client:
            headers = [("X-Forwarded-For", value) for value in forwarded]
            body = {"deepLink": FB_PROMO}
            return bool((await client.post("/v1/opens", json=body, headers=headers)).json()["repeat"])

    async with running(app):
        assert not await repeats("10.0.0.1", "203.0.113.7")
        assert await repeats("10.9.9.9", "203.0.113.7")
        assert not await repeats("10.0.0.1", "203.0.113.8")
        assert await repeats("10.0.0.1", "198.51.100.1, 203.0.113.7", "10.0.0.2")
        assert await repeats("10.0.0.1", "198.51.100.1", "203.0.113.7, 10.0.0.2")
        assert not await repeats("198.51.100.77", "203.0.113.7")
        assert not await repeats("127.0.0.1", "203.0.113.7")
        assert await repeats("198.51.100.77", "203.0.113.99")


async def test_devices_are_told_apart_under_the_current_secret(dub: FakeDub) -> None:
    """The first secret hashes; one that was rotated out to the end of the list changes nothing."""
    tokens = []
    new, old = "the new secret".ljust(32, "n"), "the old secret".ljust(32, "o")
    for secrets in (new, f"{new}, {old}", f"{old}, {new}"):
        app = create_app(parse(CONFIG, {**ENV, "FIRSTOPEN_SECRET": secrets}), transport=dub)
        async with running(app) as service:
            await service.open(FB_PROMO, install_id=ANNA)
        tokens.append(dub.requests[-1].headers["User-Agent"])
    assert tokens[0] == tokens[1] != tokens[2]


async def test_a_path_longer_than_dubs_limit_is_no_link(service: Service, dub: FakeDub) -> None:
    """32,000 characters are taken; what is longer once percent-encoded cannot be a link of Dub's."""
    at_limit = "http://acme.link/" + "x" * (32_000 - 17)
    answer = await service.open(at_limit, install_id=ANNA)
    assert (answer.match.type, answer.route.reason, answer.pending) == ("none", "default", False)
    assert dub.requests == []
    encoded = await service.open("https://acme.link/" + "\u6f22" * 10_000, install_id=ANNA)
    assert (encoded.match.type, encoded.route.reason, encoded.route.url) == ("none", "default", None)
    query = await service.open(f"{FB_PROMO}?q=" + "\u6f22" * 10_000, install_id=ANNA)
    assert (query.match.type, query.route.screen) == ("deep_link", "product")


async def test_a_query_that_is_not_utf_8_is_no_obstacle(service: Service) -> None:
    """A clicked query in another encoding is carried on as it was written, again and again."""
    first = await service.open(f"{FB_PROMO}?n=Ren%E9", install_id=ANNA)
    again = await service.open(f"{FB_PROMO}?n=Ren%E9", install_id=ANNA)
    assert first.route.url == again.route.url == "https://acme.com/product/123?n=Ren%E9"
    assert (await service.recall(first.open_id)).route == first.route


async def test_asking_again_shows_the_last_builds_route(service: Service) -> None:
    """An open that a newer build repeated is recalled as that build was told."""
    old = await service.open("https://acme.link/invite", install_id=ANNA, app_version="2.9")
    await service.open("https://acme.link/invite", install_id=ANNA, app_version="2.10")
    assert (await service.recall(old.open_id)).route.screen == "invite"


async def test_a_deep_link_is_never_taken_for_an_open_without_one(service: Service) -> None:
    """Whatever a deep link spells, it shares no answer with an open that has none."""
    await service.open(None, dub_domain="acme.link", install_id=ANNA)
    assert not (await service.open("first:acme.link", install_id=ANNA)).repeat


async def test_one_line_per_open_that_reached_dub(service: Service, logs: LogLines) -> None:
    """A resolved open leaves one info line with what an operator needs; a repeat, none at that level."""
    answer = await service.open(FB_PROMO, install_id=ANNA, platform="ios")
    await service.open(FB_PROMO, install_id=ANNA)
    (line,) = logs.events("open.resolved")
    assert (line["open_id"], line["app"], line["link"], line["platform"]) == (
        answer.open_id,
        "acme",
        "link_fb-promo",
        "ios",
    )
    assert [line["level"] for line in logs.events("open.repeated")] == ["debug"]


async def test_a_self_hosted_dub_can_be_told_the_address(
    dub: FakeDub, service: Service, tmp_path: Path
) -> None:
    """The address goes upstream only for an app whose Dub believes it, in the header that Dub reads.

    dub-api.md, "The trap": Dub takes a caller's address from ``X-Real-IP``, not from ``X-Forwarded-For``.
    """
    trusting = CONFIG.replace('schemes = ["acme"]', 'schemes = ["acme"]\ntrusts_forwarded_ip = true')
    elsewhere = {**ENV, "FIRSTOPEN_DATA_DIR": str(tmp_path / "elsewhere")}
    async with running(create_app(parse(trusting, elsewhere), transport=dub)) as trusted:
        await trusted.open(FB_PROMO, install_id=ANNA, headers={"X-Forwarded-For": "::ffff:203.0.113.7"})
    await service.open(FB_PROMO, install_id=BEN, headers={"X-Forwarded-For": "203.0.113.7"})
    first, second = (
        [request.headers.get(name) for name in ("X-Real-IP", "X-Forwarded-For")] for request in dub.requests
    )
    assert (first, second) == (["203.0.113.7", "203.0.113.7"], [None, None])


async def test_the_platform_may_be_left_out(service: Service, logs: LogLines) -> None:
    """The platform is read from the User-Agent of the usual HTTP stacks."""
    for number, (user_agent, platform) in enumerate(
        [
            ("okhttp/4.12.0", "android"),
            (IPHONE, "ios"),
            ("Dart/3.4 (dart:io)", None),
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X)", "ios"),
            ("Mozilla/5.0 (Linux; Android 14; Pixel 8)", "android"),
        ]
    ):
        await service.open(FB_PROMO, install_id=f"install-{number}", headers={"User-Agent": user_agent})
        assert logs.events("open.resolved")[-1]["platform"] == platform


async def test_health(service: Service) -> None:
    """Alive and ready, and readiness names what is degraded."""
    assert (await service.get("/health/live")).json() == {"status": "alive", "degraded": []}
    ready = await service.get("/health/ready")
    keyless = "apps.globex: no dub_api_key_env: no leads, sales or events"
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "degraded": [keyless]})


async def test_readiness_names_an_app_without_a_dub_key(dub: FakeDub) -> None:
    """Opens need none; what does is named."""
    config = CONFIG.replace('dub_api_key_env = "ACME_DUB_API_KEY"\n', "")
    async with running(create_app(parse(config, ENV), transport=dub)) as keyless:
        degraded = (await keyless.get("/health/ready")).json()["degraded"]
        assert degraded == [
            f"apps.{name}: no dub_api_key_env: no leads, sales or events" for name in ("acme", "globex")
        ]
        assert (await keyless.open(FB_PROMO, install_id=ANNA)).click_id


@pytest.mark.parametrize(("allowed", "warned"), [("*", True), ("10.0.0.0/8,*", True), ("10.0.0.0/8", False)])
async def test_believing_every_caller_is_warned_of(
    dub: FakeDub, logs: LogLines, allowed: str, *, warned: bool
) -> None:
    """FIRSTOPEN_FORWARDED_ALLOW_IPS=* is fine behind a proxy only."""
    async with running(
        create_app(parse(CONFIG, {**ENV, "FIRSTOPEN_FORWARDED_ALLOW_IPS": allowed}), transport=dub)
    ):
        assert bool(logs.events("config.forwarded_by_anybody")) == warned


async def test_the_schema_names_the_contract(service: Service) -> None:
    """/schema documents requests, answers and errors under their names, with bounds and examples."""
    schema = (await service.get("/schema/openapi.json")).json()
    report = schema["paths"]["/v1/opens"]["post"]
    assert report["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/OpenRequest")
    assert report["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Answer")
    assert "examples" in report["responses"]["200"]["content"]["application/json"]
    assert "Firstopen-Ignored" in report["responses"]["200"]["headers"]
    assert set(report["responses"]) == {"200", "400", "401", "403", "413", "415", "429"}
    for status in ("400", "401", "403", "413", "415", "429"):
        content = report["responses"][status]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith("/Problem")
    fields = schema["components"]["schemas"]["OpenRequest"]["properties"]
    assert fields["deepLink"]["maxLength"] == 32_000
    assert (fields["budgetMs"]["minimum"], fields["budgetMs"]["maximum"]) == (100, 10_000)
    assert (await service.get("/schema")).headers["content-type"].startswith("text/html")
