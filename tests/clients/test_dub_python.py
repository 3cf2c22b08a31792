"""Dub's own Python client, as installed from PyPI, in front of the service and of the sandbox alone."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from dub import Dub
from dub.models import errors, operations
from dub.utils import BackoffStrategy, RetryConfig

from tests.clients.stage import DOMAIN, HASTY_SERVER_KEY, SERVER_KEY, Stage
from tests.support import KEY


@pytest.fixture(params=["service", "sandbox"])
def base(stage: Stage, request: pytest.FixtureRequest) -> str:
    """Return the one thing that changes: where Dub is."""
    return stage.service if request.param == "service" else stage.sandbox


@pytest.fixture
def dub(base: str) -> Iterator[Dub]:
    with Dub(token=SERVER_KEY, server_url=base) as client:
        yield client


def test_a_lead_is_answered_listed_and_counted_once(dub: Dub, stage: Stage) -> None:
    """A lead names its customer and link; /events lists it; the same lead again has a null link."""
    click_id, customer = stage.new_click(), stage.new_name("customer")
    first = lead(dub, click_id, customer)
    assert (first.click.id, first.customer.external_id) == (click_id, customer)
    assert first.link
    assert (first.link.domain, first.link.key) == (DOMAIN, "fb-promo")
    again = lead(dub, click_id, customer)
    assert (again.link, again.customer.external_id) == (None, customer)
    listed = [each for each in events(dub, "leads") if each.customer.external_id == customer]
    assert [(each.event, each.event_name, each.click.id) for each in listed] == [
        ("lead", "Sign up", click_id)
    ]


def test_a_sale_is_counted_once_by_its_invoice(dub: Dub, stage: Stage) -> None:
    """A sale of a known customer is answered and listed; the same invoice gets the first answer again."""
    customer = stage.new_name("customer")
    lead(dub, stage.new_click(), customer)
    first, again = (
        dub.track.sale(
            request={
                "customer_external_id": customer,
                "amount": 1999,
                "currency": "eur",
                "payment_processor": operations.PaymentProcessor.STRIPE,
                "invoice_id": f"invoice of {customer}",
            }
        )
        for _ in range(2)
    )
    assert first.customer
    assert first.sale
    assert (first.customer.external_id, first.sale.currency) == (customer, "usd")
    assert again == first
    listed = [each for each in events(dub, "sales") if each.customer.external_id == customer]
    assert [(each.event, each.sale.invoice_id) for each in listed] == [("sale", f"invoice of {customer}")]


def test_clicks_are_listed_with_what_filters_ask_for(dub: Dub, stage: Stage) -> None:
    """Clicks have the device that clicked; a filter that excludes them leaves none."""
    click_id = stage.new_click()
    newest = events(dub, "clicks", limit=1)[0]
    assert (newest.event, newest.click.id, newest.click.trigger) == ("click", click_id, "deeplink")
    assert (newest.link.domain, newest.link.key) == (DOMAIN, "fb-promo")
    assert events(dub, "clicks", trigger="-deeplink") == []


def test_a_campaign_with_the_client_alone(stage: Stage) -> None:
    """At the sandbox the client makes a link, finds the click that a browser made, and credits it."""
    customer = stage.new_name("customer")
    with Dub(token=SERVER_KEY, server_url=stage.sandbox) as dub:
        link = dub.links.create(request={"url": "https://acme.com/sale", "domain": DOMAIN})
        assert link
        stage.http.get(f"{stage.sandbox}/{link.key}", headers={"Host": DOMAIN, "User-Agent": "Mozilla/5.0"})
        (click,) = events(dub, "clicks", link_id=link.id)
        credited = lead(dub, click.click.id, customer).link
        assert credited
        assert credited.id == link.id
        found = dub.links.get(request={"link_id": link.id})
        assert (found.clicks, found.leads) == (1, 1)


async def test_the_asynchronous_client(base: str, stage: Stage) -> None:
    """What the client calls asynchronously is answered just so."""
    async with Dub(token=SERVER_KEY, server_url=base) as dub:
        click_id, customer = stage.new_click(), stage.new_name("customer")
        body = {"click_id": click_id, "event_name": "Sign up", "customer_external_id": customer}
        assert (await dub.track.lead_async(request=body)).link
        listed = await dub.events.list_async(request={"event": operations.QueryParamEvent.LEADS})
        assert listed[0].click.id == click_id


def test_errors_are_the_clients_own(dub: Dub, stage: Stage) -> None:
    """An unknown click and a field out of bounds are raised as what the client calls them."""
    with pytest.raises(errors.NotFound) as unknown:
        lead(dub, "nosuchclick00000", stage.new_name("customer"))
    assert unknown.value.data.error.code == "not_found"
    with pytest.raises(errors.UnprocessableEntity):
        lead(dub, stage.new_click(), "x" * 101)


def test_keys_are_told_apart(stage: Stage) -> None:
    """A key that nobody has is unauthorized; an app's own key is not for backends."""
    for key, error in (("dub_wrong", errors.Unauthorized), (KEY, errors.Forbidden)):
        with Dub(token=key, server_url=stage.service) as dub, pytest.raises(error):
            events(dub, "clicks")


def test_a_lead_for_an_unknown_click_can_be_mended(stage: Stage) -> None:
    """Dub swallows a lead that it once answered 404; through the service, the mended lead is recorded."""
    customer = stage.new_name("customer")
    assert mended(stage, stage.sandbox, customer).link is None
    assert mended(stage, stage.service, customer + "-too").link


def test_a_bad_day_at_dub_as_the_client_sees_it(stage: Stage) -> None:
    """Scripted faults are raised as the client's own errors, Dub's Retry-After in Unix milliseconds."""
    with Dub(token=SERVER_KEY, server_url=stage.sandbox, timeout_ms=2_000) as dub:
        stage.goes_wrong(route="/track/lead", throttle=True, retryAfterS=5, times=1)
        with pytest.raises(errors.RateLimitExceeded) as throttled:
            lead(dub, stage.new_click(), "bad-day")
        assert float(throttled.value.headers["Retry-After"]) > 10**12
        stage.goes_wrong(route="/track/lead", status=500, times=1)
        with pytest.raises(errors.InternalServerError):
            lead(dub, stage.new_click(), "bad-day")
        stage.goes_wrong(route="/track/lead", html=True, status=502, times=1)
        with pytest.raises(errors.SDKError):
            lead(dub, stage.new_click(), "bad-day")
        stage.goes_wrong(route="/track/lead", reset="before", times=1)
        with pytest.raises(httpx.TransportError):
            lead(dub, stage.new_click(), "bad-day")
        assert lead(dub, stage.new_click(), "bad-day").link


def test_retry_after_through_the_service_is_one_that_the_client_can_wait_for(stage: Stage) -> None:
    """Dub's Unix milliseconds arrive as seconds: a client that retries waits those, and gets its page."""
    stage.goes_wrong(route="/events", throttle=True, retryAfterS=2, times=1)
    backoff = BackoffStrategy(initial_interval=1, max_interval=1, exponent=1, max_elapsed_time=20_000)
    with Dub(token=SERVER_KEY, server_url=stage.service) as dub:
        with pytest.raises(errors.RateLimitExceeded) as throttled:
            events(dub, "clicks")
        assert 1 <= int(throttled.value.headers["Retry-After"]) <= 2
    retrying = RetryConfig("backoff", backoff, retry_connection_errors=False)
    with Dub(token=SERVER_KEY, server_url=stage.service, retry_config=retrying) as dub:
        assert events(dub, "clicks", limit=1)


def test_the_analytics_budget_is_held_for_the_client(stage: Stage) -> None:
    """Above the one call a second that this app may spend, the client gets its error; Dub is not asked."""
    before = stage.calls("/events")
    with Dub(token=HASTY_SERVER_KEY, server_url=stage.service) as dub:
        answered, refusal = pages_until_refused(dub)
    assert int(refusal.headers["Retry-After"]) == 1
    assert stage.calls("/events") == before + answered


def pages_until_refused(dub: Dub) -> tuple[int, errors.RateLimitExceeded]:
    """List events until there are too many calls: the second, unless the machine paused for a second."""
    for answered in range(50):
        try:
            events(dub, "clicks")
        except errors.RateLimitExceeded as refusal:
            return answered, refusal
    raise AssertionError("the budget was never spent")


def lead(dub: Dub, click_id: str, customer: str) -> operations.TrackLeadResponseBody:
    return dub.track.lead(
        request={"click_id": click_id, "event_name": "Sign up", "customer_external_id": customer}
    )


def mended(stage: Stage, base: str, customer: str) -> operations.TrackLeadResponseBody:
    """Report a lead with a click that nobody has, then with one that exists."""
    with Dub(token=SERVER_KEY, server_url=base) as dub:
        with pytest.raises(errors.NotFound):
            lead(dub, "nosuchclick00000", customer)
        return lead(dub, stage.new_click(), customer)


def events(dub: Dub, kind: str, **filters: Any) -> list[Any]:
    """List events; the client hands them out as three classes, one per kind."""
    return [*dub.events.list(request=operations.ListEventsRequest.model_validate({"event": kind, **filters}))]
