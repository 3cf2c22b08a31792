"""`POST /track/open`: what it takes for a deep link, and which links are the same."""

from typing import Any

import pytest

from tests.contract import shapes
from tests.contract.targets import Target, error_of, refused
from tests.sandbox.support import DOMAIN, PROMO

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("deep_link", "key"),
    [
        ("https://acme.link/fb-promo", "fb-promo"),
        ("http://acme.link/fb-promo", "fb-promo"),
        ("acme.link/fb-promo", "fb-promo"),
        ("ACME.link/fb-promo", "fb-promo"),
        ("https://ACME.LINK/fb-promo", "fb-promo"),
        ("https://www.acme.link/fb-promo", "fb-promo"),
        ("www.acme.link/fb-promo", "fb-promo"),
        ("https://acme.link:443/fb-promo", "fb-promo"),
        ("https://acme.link:8443/fb-promo", "fb-promo"),
        ("https://acme.link/fb-promo?utm_source=ig&ref=x", "fb-promo"),
        ("acme.link/fb-promo?to=https://else.where/x", "fb-promo"),
        ("https://acme.link/fb-promo#top", "fb-promo"),
        ("https://acme.link/x/../fb-promo", "fb-promo"),
        ("https://acme.link/FB-Promo", "FB-Promo"),
        ("https://acme.link", "_root"),
        ("https://acme.link/", "_root"),
        ("https://acme.link?x=1", "_root"),
        ("acme.link", "_root"),
        ("https://acme.link/caf%C3%A9/menu", "caf%C3%A9/menu"),
        ("https://acme.link/café/menu", "caf%C3%A9/menu"),
    ],
)
async def test_one_link_however_it_is_written(shared: Target, deep_link: str, key: str) -> None:
    """Scheme, case of the host, www., port and query make no other link; the path's case is kept."""
    link = (await shared.open(deep_link))["link"]
    ids = {"_root": "link_root", "caf%C3%A9/menu": "link_cafe"}
    assert (link["id"], link["domain"], link["key"]) == (ids.get(key, "link_promo"), DOMAIN, key)


@pytest.mark.parametrize(("length", "status"), [(31_999, 200), (32_000, 200), (32_001, 422)])
async def test_how_long_a_deep_link_may_be(shared: Target, length: int, status: int) -> None:
    """32,000 characters are taken, one more is not."""
    body = {"deepLink": f"{PROMO}?x=".ljust(length, "x")}
    response = await shared.post("/track/open", body)
    assert response.status_code == status
    assert bool(shapes.problems(shapes.request_of("/track/open"), body)) is (status == 422)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"deepLink": ""},
        {"dubDomain": ""},
        {"deepLink": None},
        {"dubDomain": None},
        {"deepLink": "", "dubDomain": DOMAIN},
        {"deepLink": None, "dubDomain": DOMAIN},
        {"deepLink": PROMO, "dubDomain": ""},
        {"deepLink": PROMO, "dubDomain": None},
        {"deeplink": PROMO},
        {"deepLink": 7},
        {"deepLink": [PROMO]},
        {"dubDomain": {"name": DOMAIN}},
        {"deepLink": PROMO, "dubDomain": 7},
        [],
        "text",
    ],
)
async def test_a_body_that_says_nothing(shared: Target, body: Any) -> None:
    """Neither of the two fields, or one that is empty, null or of another type, is a 422.

    dub-api.md, POST /track/open; the published page says that a blank deepLink is left out.
    """
    assert error_of(await shared.post("/track/open", body)) == (422, "unprocessable_entity")
    assert shapes.problems(shapes.request_of("/track/open"), body)


@pytest.mark.parametrize("deep_link", ["hello", "two words", "a.b c.d", "https://", "http://[/", "   "])
async def test_a_deep_link_that_is_no_url(shared: Target, deep_link: str) -> None:
    """Text that no parser takes for a URL, even with https:// before it, is a 422 that names the field."""
    refused(await shared.ask_open(deepLink=deep_link), "deepLink")


async def test_unknown_fields_are_ignored(shared: Target) -> None:
    """A field that nobody documented changes nothing."""
    response = await shared.ask_open(deepLink=PROMO, sdkVersion="1.2.3", deepLinks=[1])
    assert response.json()["link"]["id"] == "link_promo"
