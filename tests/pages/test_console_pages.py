"""What the console shows of opens, tries and health: of the session's app only, and nothing personal."""

import json
from collections.abc import AsyncIterator
from typing import get_args

import httpx
import pytest

from service.api.traces import DryRunRequest
from service.app import create_app
from service.config.settings import Settings, parse
from service.domain.calibration import ShadowMatch
from service.domain.errors import StoreFailed
from service.domain.models import MatchReason, MatchType, Source
from service.domain.open_explanations import MATCH_REASONS, MATCH_TYPES, OUTCOMES, SOURCES
from service.domain.outbox_entries import Entry
from service.domain.routing import Reason
from service.storage.calibration import CalibrationStore
from service.storage.database import Database
from service.storage.outbox import SqlOutboxStore
from tests.pages.support import GLOBEX_SERVER_KEY, log_in, submit, text_of, token_in
from tests.sandboxed import in_the_database, in_the_outbox, left_over
from tests.support import ANNA, BEN, CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, Service, running

TWO_APPS = CONFIG.replace(
    'publishable_keys = ["dub_pk_globex"]',
    'publishable_keys = ["dub_pk_globex"]\nserver_keys_env = "GLOBEX_SERVER_KEYS"',
)
ENV_OF_TWO = {"GLOBEX_SERVER_KEYS": GLOBEX_SERVER_KEY}


@pytest.fixture
async def service(dub: FakeDub, clock: FakeClock) -> AsyncIterator[Service]:
    """The service with two apps that have server keys, logged in for acme."""
    settings = parse(TWO_APPS, {**ENV, **ENV_OF_TWO})
    async with running(
        create_app(settings, transport=dub, clock=clock, unix_time=clock.unix_time)
    ) as service:
        assert (await log_in(service)).status_code == 303
        yield service


async def dead_letter(name: str, app: str = "acme") -> None:
    """Put a dead letter into the outbox, beside the service."""
    payload = json.dumps({"kind": "lead", "body": {"customerEmail": "anna@example.com"}}).encode()
    entry = Entry(
        id=name, app=app, kind="lead", ordering_key=name, created=1.0, next_try=1.0, payload=payload
    )

    async def bury(entries: SqlOutboxStore) -> None:
        await entries.add(entry, leased=False)
        entries.finish(entry, "dead", "DubRefused: 404 not_found")

    await in_the_outbox(bury)


def test_there_are_words_for_everything() -> None:
    """A new match type, reason, source or route reason needs words in ``open_explanations``."""
    assert MATCH_TYPES.keys() == set(get_args(MatchType))
    assert MATCH_REASONS.keys() == set(get_args(MatchReason))
    assert SOURCES.keys() == set(get_args(Source))
    assert OUTCOMES.keys() == set(get_args(Reason))


async def test_an_open_that_landed_on_home_is_explained(service: Service, dub: FakeDub) -> None:
    """The page says which pattern is nearest, what Dub was asked, and what was ignored."""
    dub.links["acme.link/shoes"] = "https://acme.com/produkt/7"
    opened = await service.open("https://acme.link/shoes", install_id=ANNA, installed_at="yesterday")
    page = await service.get(f"/console/opens/{opened.open_id}")
    text = text_of(page)
    assert (
        "Landed on home because no pattern covers https://acme.com/produkt/7: the nearest is"
        " https://acme.com/product/:id, which has /product where the URL has /produkt." in text
    )
    assert f"It is credited with click {opened.click_id}, which is certain" in text
    assert "POST /track/open with the deep link" in text
    assert "ignored fields installedAt" in text
    assert "Nothing: all that Dub must know" in text


async def test_what_the_outbox_owes_is_shown(service: Service, dub: FakeDub) -> None:
    """An open that Dub has not confirmed is in the outbox, and so is the lead that waits for it."""

    async def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    dub.script = away
    opened = await service.open(FB_PROMO, install_id=ANNA)
    lead = {"eventName": "Sign up", "customerExternalId": "anna", "installId": ANNA}
    assert (await service.post("/v1/leads", json=lead)).status_code in (200, 202)
    text = text_of(await service.get(f"/console/opens/{opened.open_id}"))
    assert "pending: it may still improve" in text
    assert f"open {opened.open_id} queued" in text
    assert "lead " in text.partition("What the outbox owes")[2]


async def test_nothing_personal_is_on_any_page(service: Service, dub: FakeDub) -> None:
    """Not the query of a link, an installId, an address or a clipboard, whatever they hold."""
    dub.links["acme.link/mail"] = "https://acme.com/product/7?email=anna@example.com#token"
    opened = await service.open(
        "https://acme.link/mail?phone=+4917012345",
        install_id="install-of-anna",
        clipboard="my password",
        headers={"User-Agent": "Acme/12 Nokia3310", "X-Forwarded-For": "203.0.113.77"},
    )
    for path in ("/console/opens", f"/console/opens/{opened.open_id}", "/console/health"):
        page = (await service.get(path)).text
        for secret in (
            *("anna@example.com", "4917012345", "token#", "#token", "install-of-anna", "my password"),
            *("Nokia3310", "203.0.113.77", ENV["ACME_DUB_API_KEY"], ENV["FIRSTOPEN_SECRET"]),
        ):
            assert secret not in page, (path, secret)
    assert "https://acme.com/product/7?email=…" in text_of(
        await service.get(f"/console/opens/{opened.open_id}")
    )


async def test_opens_are_listed_newest_first_and_filtered(service: Service, clock: FakeClock) -> None:
    for number, link in enumerate([FB_PROMO, "https://acme.link/gift", None, "https://acme.link/summer"]):
        clock.advance(1)
        await service.open(link, install_id=f"install-{number}")
    rows = (await service.get("/console/opens")).text.split('<tr id="open-')[1:]
    assert ["/console/opens/" in row for row in rows] == [True] * 4
    assert "acme.link/summer" in rows[0]
    assert "nothing to route" in rows[1]
    assert "acme.link/fb-promo" in rows[3]
    for query, links in [
        ("match=deep_link", ["acme.link/summer", "acme.link/gift", "acme.link/fb-promo"]),
        ("match=none", [""]),
        ("outcome=unlisted", ["acme.link/summer"]),
        ("outcome=default", [""]),
        ("match=none&outcome=matched", []),
        ("match=nonsense&outcome=nonsense&before=nonsense", None),
    ]:
        found = (await service.get(f"/console/opens?{query}")).text.split('<tr id="open-')[1:]
        assert len(found) == (4 if links is None else len(links)), query
        assert all(link in row for link, row in zip(links or [], found, strict=False))


async def test_older_opens_are_on_further_pages(service: Service, clock: FakeClock) -> None:
    """Every open is on exactly one page, with the filter kept."""
    expected = []
    for number in range(120):
        clock.advance(0.5 if number % 2 else 0)
        expected.append((await service.open(FB_PROMO, install_id=f"install-{number}")).open_id)
    seen: list[str] = []
    path: str | None = "/console/opens?match=deep_link"
    while path is not None:
        page = (await service.get(path)).text
        seen += [row.partition('"')[0] for row in page.split('href="/console/opens/')[1:]]
        older = page.partition('<a href="/console/opens?')[2].partition('" rel="next"')[0]
        assert not older or "match=deep_link" in older
        path = f"/console/opens?{older.replace('&amp;', '&')}" if older else None
    assert sorted(seen) == sorted(expected)


async def test_another_apps_opens_do_not_exist(service: Service) -> None:
    """Neither in the list nor by id, and its dead letters can be neither seen, retried nor discarded."""
    ours = await service.open(FB_PROMO, install_id=ANNA)
    await dead_letter("ours")
    await dead_letter("theirs", "globex")
    service.cookies.clear()
    assert (await log_in(service, GLOBEX_SERVER_KEY)).status_code == 303
    assert "globex" in text_of(await service.get("/console/opens"))
    assert ours.open_id not in (await service.get("/console/opens")).text
    assert (await service.get(f"/console/opens/{ours.open_id}")).status_code == 404
    health = await service.get("/console/health")
    assert "theirs" in health.text
    for secret in ("ours", "dub_pk_acme", "[apps.acme]", "acme.link"):
        assert secret not in health.text
    token = token_in(health)
    for action in ("retry", "discard"):
        answer = await submit(
            service, f"/console/health/{action}", token, {"entry": "ours", "reason": "not mine"}
        )
        assert answer.status_code == 404
    assert "acme.com" not in (await service.get("/console/try")).text
    await submit(service, "/console/health/retry", token, {"entry": ""})
    assert await left_over() == {"lead dead": 1, "lead queued": 1}


async def test_a_dead_letter_is_retried(service: Service) -> None:
    await dead_letter("one")
    await dead_letter("two")
    page = await service.get("/console/health")
    assert "DubRefused: 404 not_found" in text_of(page)
    assert "anna@example.com" not in page.text
    answer = await submit(service, "/console/health/retry", token_in(page), {"entry": "one"})
    assert answer.headers["location"] == "/console/health?done=retried"
    assert "It is queued again" in text_of(await service.get(answer.headers["location"]))
    again = await submit(service, "/console/health/retry", token_in(page), {"entry": "one"})
    assert again.status_code == 404


async def test_a_dead_letter_is_discarded_with_a_reason(service: Service) -> None:
    await dead_letter("one")
    page = await service.get("/console/health")
    for reason, status in (("", 422), ("x" * 201, 422), ("a\nb", 422), ("a click of a test", 303)):
        fields = {"entry": "one", "reason": reason}
        answer = await submit(service, "/console/health/discard", token_in(page), fields)
        assert answer.status_code == status, reason
    assert await left_over() == {}

    found = await in_the_outbox(lambda entries: entries.found("one"))
    assert found is not None
    summary, payload = found
    assert (summary.reason, payload) == ("discarded: a click of a test", None)


async def test_health_shows_what_is_degraded_and_the_configuration(service: Service, dub: FakeDub) -> None:
    async def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    dub.script = broken
    for number in range(12):
        await service.open(f"https://acme.link/x{number}", install_id=ANNA)
    text = text_of(await service.get("/console/health"))
    assert "Dub's /track/open: circuit breaker open" in text
    assert "/track/open open" in text
    assert "ip_matching off set" in text
    assert "apps.globex" not in text  # it has no Dub API key, which is another app's problem
    assert "server keys of this app 2 set, hidden" in text


async def test_health_shows_how_often_matching_is_right(service: Service, clock: FakeClock) -> None:
    """The same numbers as ``firstopen calibration``, of this app only; without any, it says so."""
    before = text_of(await service.get("/console/health"))
    assert "No first open with certain evidence in 90 days" in before
    right, wrong = ShadowMatch("agreed", 99, agrees=True), ShadowMatch("other_click", 92)
    refused, none = ShadowMatch("refused", 40, agrees=True), ShadowMatch("none")

    async def count(database: Database, _: Settings) -> None:
        store = CalibrationStore(database, clock.unix_time)
        store.add("acme", [*[right] * 49, wrong, refused, none])
        store.add("globex", [wrong])

    await in_the_database(count)
    text = text_of(await service.get("/console/health"))
    assert "52 first opens with certain evidence in 90 days" in text
    assert "matched 50 (agreed 49, other 1), refused 1, none 1" in text
    assert "precision 0.980 [0.895, 0.997]" in text
    assert "recall 0.942 [0.844, 0.980]; 0.961 [0.868, 0.989] with a candidate" in text
    assert "0.90 to 0.95 1 0.920 0.000 [0.000, 0.793]" in text
    assert "0.98 to 1.00 49 0.990 1.000 [0.927, 1.000]" in text


async def test_a_dry_run(service: Service, dub: FakeDub) -> None:
    """Every field of the API is in the form, and nothing is recorded, here or at Dub."""
    page = await service.get("/console/try")
    for name in DryRunRequest.__struct_fields__:
        assert f'name="{name}"' in page.text
    fields = {
        "deep_link": FB_PROMO,
        "install_id": BEN,
        "app_version": "2.9",
        "budget_ms": "soon",
        "consent": "true",
        "ip": "203.0.113.7",
    }
    answer = await submit(service, "/console/try/open", token_in(page), fields)
    text = text_of(answer)
    assert answer.status_code == 200
    assert (
        "Landed on product because https://acme.com/product/:id is the first pattern that covers"
        " https://acme.com/product/123." in text
    )
    assert "A real open would be credited with the click that Dub records for the deep link." in text
    assert "ignored fields budgetMs" in text
    assert f'value="{BEN}"' in answer.text  # the form keeps what was entered
    assert dub.requests[-1].headers["dub-no-track"] == "true"
    assert "No opens" in text_of(await service.get("/console/opens"))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"ip": "nonsense"}, "ip: expected an IPv4 or IPv6 address"),
        ({"dub_domain": "globex.link"}, "dubDomain: is not one of this app's domains"),
    ],
)
async def test_a_dry_run_says_what_is_wrong(service: Service, fields: dict[str, str], problem: str) -> None:
    token = token_in(await service.get("/console/try"))
    answer = await submit(service, "/console/try/open", token, fields)
    assert problem in text_of(answer)


@pytest.mark.parametrize(
    ("url", "version", "words"),
    [
        ("acme.com/product/1/", "", "which"),
        ("https://acme.com/invite/anna", "2.9", "matches, but needs 2.10 or newer"),
        ("https://acme.link/fb-promo?x", "", "only Dub knows its destination"),
        ("<script>alert(1)</script>", "", "its destination is not a URL"),
        ("", "", "its destination is not a URL"),
    ],
)
async def test_the_route_tester(service: Service, url: str, version: str, words: str) -> None:
    """It says which route wins and why the others do not; what is entered is text, whatever it is."""
    token = token_in(await service.get("/console/try"))
    answer = await submit(service, "/console/try/route", token, {"url": url, "route_version": version})
    assert answer.status_code == 200
    assert words in text_of(answer) or "covers https://acme.com/product/1/" in text_of(answer)
    assert "<script>alert" not in answer.text


async def test_the_database_may_be_away(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of the opens says so, and health says what is wrong instead of failing, too."""

    async def fails(*_: object, **__: object) -> list[list[object]]:
        raise StoreFailed("the disk is full")

    for name in ("read", "read_written"):
        monkeypatch.setattr(Database, name, fails)
    opens = await service.get("/console/opens")
    assert (opens.status_code, "The database is not available: the disk is full." in opens.text) == (
        503,
        True,
    )
    health = await service.get("/console/health")
    assert (health.status_code, "cannot be read: the disk is full" in text_of(health)) == (200, True)
