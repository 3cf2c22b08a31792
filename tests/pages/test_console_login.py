"""Who may see the console, and which forms it acts on."""

import pytest

from service.app import create_app
from service.config.settings import parse
from tests.pages.support import SAME_ORIGIN, log_in, submit, text_of, token_in
from tests.support import CONFIG, ENV, KEY, SERVER_KEY, FakeClock, FakeDub, Service, running

PAGES = ("/console/opens", "/console/opens/00000000000000000000000000000000")


async def test_a_server_key_opens_it(service: Service) -> None:
    """After the login, the page that was asked for is shown, with the key's app."""
    asked = await service.get("/console/opens?match=none")
    assert asked.headers["location"] == "/console/login?next=/console/opens%3Fmatch%3Dnone"
    form = await service.get(asked.headers["location"])
    assert 'name="next" value="/console/opens?match=none"' in form.text
    answer = await submit(
        service, "/console/login", token_in(form), {"key": SERVER_KEY, "next": "/console/opens?match=none"}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/opens?match=none")
    page = await service.get("/console/opens")
    assert page.status_code == 200
    assert "acme" in text_of(page)


async def test_the_cookie_is_for_the_console_only(service: Service) -> None:
    """Scripts cannot read it, other sites cannot cause it to be sent, and it is no API key."""
    answer = await log_in(service)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/console"} <= set(cookie.split("; "))
    assert "Secure" not in cookie.split("; ")
    assert SERVER_KEY not in cookie
    sealed = service.cookies["firstopen_console"]
    listed = await service.get("/v1/opens", headers={"Authorization": f"Bearer {sealed}"})
    assert listed.status_code == 401


async def test_the_cookie_is_secure_over_https(service: Service) -> None:
    """Behind a proxy that ends TLS, the cookie is sent over https only."""
    page = await service.get("/console/login", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in page.headers["set-cookie"].split("; ")


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        (KEY, 403, "This is a publishable key. The console needs a server key."),
        ("server-key-of-nobody", 401, "No app has this server key."),
        ("", 401, "No app has this server key."),
        ("\ud83d\ude00" * 300, 401, "No app has this server key."),
    ],
)
async def test_other_keys_are_refused(service: Service, key: str, status: int, words: str) -> None:
    """A publishable key, which is in every copy of the app, does not open the console."""
    answer = await log_in(service, key.encode("utf-16", "surrogatepass").decode("utf-16"))
    assert answer.status_code == status
    assert words in text_of(answer)
    assert (await service.get("/console/opens")).status_code == 303


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("cookie", [None, "forged", "gAAAAABrC79pkwhEaAO1XRmwzvsZEi_vLDtYF5L3vjAAvukVFcxX"])
async def test_no_page_without_a_session(service: Service, path: str, cookie: str | None) -> None:
    """Without a cookie, or with one that this service did not make, there is only the login page."""
    headers = {} if cookie is None else {"Cookie": f"firstopen_console={cookie}"}
    answer = await service.get(path, headers=headers)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/console/login?next=")


async def test_a_session_ends(service: Service, clock: FakeClock) -> None:
    """A session lasts twelve hours."""
    await log_in(service)
    clock.advance(12 * 3600 - 1)
    assert (await service.get("/console/opens")).status_code == 200
    clock.advance(2)
    assert (await service.get("/console/opens")).status_code == 303


async def test_logging_out(service: Service) -> None:
    await log_in(service)
    page = await service.get("/console/opens")
    answer = await submit(service, "/console/logout", token_in(page))
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")
    assert (await service.get("/console/opens")).status_code == 303


async def test_a_removed_key_ends_its_sessions(clock: FakeClock, dub: FakeDub) -> None:
    """A cookie is good on every replica, and only while the settings list its server key."""

    def app(keys: str) -> Service:
        settings = parse(CONFIG, {**ENV, "ACME_SERVER_KEYS": keys})
        return Service(create_app(settings, transport=dub, clock=clock, unix_time=clock.unix_time))

    async with app(f"{SERVER_KEY},another") as first, app(SERVER_KEY) as second, app("another") as third:
        await log_in(first)
        cookie = {"Cookie": f"firstopen_console={first.cookies['firstopen_console']}"}
        assert (await second.get("/console/login", headers=cookie)).status_code == 303  # needs no login
        assert (await third.get("/console/login", headers=cookie)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://other.firstopen"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[evil"},
    ],
)
async def test_a_form_of_another_site_is_refused(service: Service, headers: dict[str, str]) -> None:
    """Even with the right token, which another site cannot know."""
    await log_in(service)
    page = await service.get("/console/opens")
    answer = await submit(service, "/console/logout", token_in(page), headers=headers)
    assert answer.status_code == 403
    assert "sent by another site" in text_of(answer)
    assert (await service.get("/console/opens")).status_code == 200


@pytest.mark.parametrize("token", ["", "forged", "\u00e9"])
async def test_a_form_with_a_forged_token_is_refused(service: Service, token: str) -> None:
    await log_in(service)
    answer = await submit(service, "/console/logout", token)
    assert answer.status_code == 403
    assert (await service.get("/console/opens")).status_code == 200


async def test_a_token_is_good_for_its_own_session_only(service: Service) -> None:
    """The token of the login form does not pass once somebody has logged in."""
    before = token_in(await service.get("/console/login"))
    await submit(service, "/console/login", before, {"key": SERVER_KEY})
    assert (await submit(service, "/console/logout", before)).status_code == 403


async def test_a_login_form_of_another_browser_is_refused(service: Service) -> None:
    """Nobody can be logged in to somebody else's app by a form of another site."""
    token = token_in(await service.get("/console/login"))
    service.cookies.clear()
    answer = await submit(service, "/console/login", token, {"key": SERVER_KEY})
    assert answer.status_code == 403


async def test_attempts_are_limited(service: Service, clock: FakeClock) -> None:
    """Ten attempts a minute from one address, right ones included: keys cannot be searched for."""
    statuses = [(await log_in(service, "guess")).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    assert (await log_in(service)).status_code == 429
    clock.advance(60)
    assert (await log_in(service)).status_code == 303


async def test_a_link_from_another_site_finds_the_session(service: Service) -> None:
    """A strict cookie is not sent with it, so a page of our own asks again, once."""
    path = "/console/opens?match=none"
    asked = await service.get(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert asked.status_code == 200
    assert f'content="0; url={path}"' in asked.text
    again = await service.get(path, headers={"Sec-Fetch-Site": "same-origin"})
    assert again.status_code == 303


@pytest.mark.parametrize("path", ["http://firstopen//console/opens", "/console/opens?" + "x" * 600])
async def test_a_page_that_asks_again_stays_here(service: Service, path: str) -> None:
    """A path with two slashes at its start would be another host."""
    asked = await service.get(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert 'content="0; url=/console/opens"' in asked.text


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/console/../x\\y", "/console/login", "/v1/opens", ""]
)
async def test_no_other_site_after_the_login(service: Service, to: str) -> None:
    answer = await log_in(service, to=to)
    assert answer.headers["location"] == "/console/opens"


async def test_it_can_be_turned_off(clock: FakeClock, dub: FakeDub) -> None:
    """Then the paths do not exist."""
    settings = parse(f"{CONFIG}\n[console]\nenabled = false\n", ENV)
    app = create_app(settings, transport=dub, clock=clock, unix_time=clock.unix_time)
    async with running(app) as service:
        for path in ("/console", "/console/login", *PAGES):
            assert (await service.get(path)).status_code == 404
        assert (await service.post("/console/login", headers=SAME_ORIGIN)).status_code == 404


async def test_strict_headers_on_every_page(service: Service) -> None:
    """No script or style from elsewhere or inline, no frames, nothing cached; on errors, too."""
    await log_in(service)
    for path in (*PAGES, "/console", "/console/login"):
        headers = (await service.get(path)).headers
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


async def test_a_form_that_is_too_large_is_refused(service: Service) -> None:
    await log_in(service)
    answer = await submit(service, "/console/logout", "x" * 200_000)
    assert answer.status_code == 413
