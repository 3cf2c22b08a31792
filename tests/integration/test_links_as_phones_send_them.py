"""Links with slashes, dots, wrappers and words around them, in every kind of evidence, over HTTP."""

from typing import Any
from urllib.parse import quote

import pytest

from service.app import create_app
from service.config.settings import parse
from tests.support import ANNA, BEN, CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, LogLines, Service, running

FORMS = [
    "https://acme.link/fb-promo/",
    "https://acme.link//fb-promo",
    "https://acme.link./fb-promo",
    "HTTP://www.acme.link//fb-promo//",
    "acme.link/%66b-promo",
    "https%3A%2F%2Facme.link%2Ffb-promo",
    "https://l.facebook.com/l.php?u=https%3A%2F%2Facme.link%2Ffb-promo&h=AT0",
    "acme://open?link=https%3A%2F%2Facme.link%2Ffb-promo",
    "acme://acme.link/fb-promo",
    "\u200bhttps://acme.link/fb-promo\u200b",
]
WORDS = [
    "\u201chttps://acme.link/fb-promo\u201d",
    "Look: https://acme.link/fb-promo!\nBye",
    "try acme.link/fb-promo",
]
LETTER = "Dear Anna, the code is 4711. "


def _evidence(kind: str, link: str) -> dict[str, Any]:
    return {kind: f"utm_source=x&deepLink={quote(link, safe='')}" if kind == "install_referrer" else link}


@pytest.mark.parametrize("kind", ["deep_link", "install_referrer", "clipboard"])
@pytest.mark.parametrize("link", FORMS)
async def test_every_form_finds_its_link(service: Service, dub: FakeDub, kind: str, link: str) -> None:
    """Whatever form it arrives in, the link is found, and each install's click is its own."""
    first = await service.open(**_evidence(kind, link), install_id=ANNA)
    assert (first.match.type, first.match.guaranteed) == (kind, True)
    assert (first.route.screen, first.route.params) == ("product", {"id": "123"})
    plain = await service.open(**_evidence(kind, FB_PROMO), install_id=ANNA)
    assert (plain.click_id, plain.repeat) == (first.click_id, True)
    assert first.click_id
    assert dub.calls("/track/open") == 1


@pytest.mark.parametrize("clipboard", WORDS)
async def test_a_link_among_words_is_found(service: Service, logs: LogLines, clipboard: str) -> None:
    """Only the link is used; the words are neither sent nor logged."""
    answer = await service.open(clipboard=LETTER + clipboard, install_id=ANNA)
    assert (answer.match.type, answer.route.params) == ("clipboard", {"id": "123"})
    assert "4711" not in logs.text


async def test_a_referrer_without_dubs_parameter_is_searched_too(service: Service) -> None:
    """A store link that somebody else built names the short link in another parameter."""
    answer = await service.open(
        install_referrer=f"utm_source=x&link={quote(FB_PROMO, safe='')}", install_id=ANNA
    )
    assert answer.match.type == "install_referrer"


async def test_a_domain_with_a_dot_at_its_end(service: Service) -> None:
    """``acme.link.`` is one of the app's domains, as it is in a browser."""
    answer = await service.open(dub_domain="acme.link.", install_id=ANNA)
    assert answer.route.reason == "default"


@pytest.mark.parametrize("configured", ["b\u00fccher.link", "xn--bcher-kva.link"])
async def test_an_international_domain(dub: FakeDub, clock: FakeClock, configured: str) -> None:
    """Unicode and punycode are one domain, in ``firstopen.toml`` as in requests; Dub is told punycode."""
    dub.links["b\u00fccher.link/x"] = "https://acme.com/product/9"  # the scripted Dub shows hosts in Unicode
    config = CONFIG.replace('"go.acme.com"', f'"{configured}"')
    app = create_app(parse(config, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    async with running(app) as service:
        unicode = await service.open("https://B\u00fccher.link/x", install_id=ANNA)
        punycode = await service.open("https://xn--bcher-kva.link/x/", install_id=ANNA)
        assert (unicode.route.params, punycode.repeat) == ({"id": "9"}, True)
        for domain in ("b\u00fccher.link", "XN--bcher-kva.link"):
            await service.open(dub_domain=domain, install_id=BEN)
    assert b"https://xn--bcher-kva.link/x" in dub.requests[0].content
