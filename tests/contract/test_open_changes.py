"""`POST /track/open`, for links that were made, closed or deleted, and before a lead."""

from typing import Any

import pytest

from tests.contract.targets import SERVER_KEY, Target, error_of
from tests.sandbox.support import DOMAIN, PROMO, FakeClock

UNKNOWN = "https://acme.link/unknown"


@pytest.mark.parametrize(
    "closed",
    [{"disabled": True}, {"expiresAt": "2020-01-01T00:00:00Z"}, {"password": "open sesame"}],
    ids=["disabled", "expired", "password"],
)
async def test_closed_links_still_open_an_app(target: Target, closed: dict[str, Any]) -> None:
    """A link that the web no longer follows still resolves for the app."""
    await target.at_dub("PATCH", "/links/link_promo", closed)
    assert (await target.open())["link"]["id"] == "link_promo"


async def test_a_deleted_link_is_unknown(target: Target) -> None:
    """A link that was deleted is a 404."""
    await target.at_dub("DELETE", "/links/link_promo")
    assert error_of(await target.ask_open(deepLink=PROMO)) == (404, "not_found")


async def test_a_new_link_is_known_soon_after_its_404(target: Target, clock: FakeClock) -> None:
    """A link that is made after somebody asked for it is known, at the latest, when the 404 is forgotten."""
    assert error_of(await target.ask_open(deepLink=UNKNOWN)) == (404, "not_found")
    await target.at_dub("POST", "/links", {"domain": DOMAIN, "key": "unknown", "url": "https://acme.com/new"})
    clock.advance(target.expects("seconds until a new link is known"))
    assert (await target.open(UNKNOWN))["link"]["url"] == "https://acme.com/new"


async def test_a_lead_follows_an_open_at_once(target: Target) -> None:
    """A click that a deep-link open recorded is known to the very next lead, however late the web's are."""
    await target.at_dub("PATCH", "/sandbox/settings", {"leadLookupDelayS": 300})
    click_id = await target.click_id()
    response = await target.post(
        "/track/lead",
        {"clickId": click_id, "eventName": "Sign up", "customerExternalId": "anna"},
        key=SERVER_KEY,
    )
    assert response.json()["link"]["id"] == "link_promo"
