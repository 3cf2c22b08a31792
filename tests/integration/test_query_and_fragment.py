"""What a clicked link carries to its destination and to the route: query, fragment, params; over HTTP."""

from collections.abc import AsyncIterator

import pytest

from service.app import create_app
from service.config.settings import parse
from tests.integration.world import embedded_dub, started_over
from tests.support import ANNA, CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, LogLines, Service, running

ROUTES = """
[[apps.acme.routes]]
pattern = "https://acme.com/search"
screen = "search"
query = ["q", "sort"]

[[apps.acme.routes]]
pattern = "https://acme.com/#/cart/:id"
screen = "cart"
"""


@pytest.fixture
async def service(dub: FakeDub, clock: FakeClock) -> AsyncIterator[Service]:
    dub.links |= {
        "acme.link/search": "https://acme.com/search?q=red%20shoes&sort=old",
        "acme.link/spa": "https://acme.com/#/cart/7",
        "acme.link/shop": "https://acme.com/",
    }
    config = CONFIG.replace("[apps.globex]", f"{ROUTES}\n[apps.globex]")
    async with running(
        create_app(parse(config, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    ) as service:
        yield service


async def test_parameters_become_params(service: Service) -> None:
    """Those that the route names, decoded, the clicked link's over the destination's; a space stays %20."""
    answer = await service.open("https://acme.link/search?fbclid=1&sort=new", install_id=ANNA)
    assert (answer.route.screen, answer.route.params) == ("search", {"q": "red shoes", "sort": "new"})
    assert answer.route.url == "https://acme.com/search?q=red%20shoes&sort=new&fbclid=1"


async def test_an_absent_parameter_is_absent(service: Service, dub: FakeDub) -> None:
    """No parameter, no param: an app tells "not given" from "given and empty"."""
    dub.links["acme.link/search"] = "https://acme.com/search?sort="
    answer = await service.open("https://acme.link/search", install_id=ANNA)
    assert answer.route.params == {"sort": ""}


async def test_a_hash_route_survives_a_merged_query(service: Service) -> None:
    """Social networks add a parameter to every link that is tapped."""
    answer = await service.open("https://acme.link/spa?fbclid=1", install_id=ANNA)
    assert (answer.route.screen, answer.route.params) == ("cart", {"id": "7"})
    assert answer.route.url == "https://acme.com/?fbclid=1#/cart/7"


async def test_a_destination_without_a_fragment_inherits_the_links(service: Service) -> None:
    """As in a browser; with another fragment it is another route, and the same click."""
    seven = await service.open("https://acme.link/shop#/cart/7", install_id=ANNA)
    assert (seven.route.screen, seven.route.url) == ("cart", "https://acme.com/#/cart/7")
    eight = await service.open("https://acme.link/shop?ref=ig#/cart/8", install_id=ANNA)
    assert (eight.route.params, eight.route.url) == ({"id": "8"}, "https://acme.com/?ref=ig#/cart/8")
    assert eight.click_id == seven.click_id
    own = await service.open("https://acme.link/spa#/cart/8", install_id=ANNA)
    assert own.route.params == {"id": "7"}


async def test_a_fragment_outlives_an_outage(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answered without Dub, then settled by the outbox: the route is that of the link as it was opened."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)
    async with started_over(embedded_dub(clock), clock) as world:
        await world.fail("/track/open")
        pending = await world.launch(deep_link=f"{FB_PROMO}?ref=ig#reviews")
        assert (pending.source, pending.route.url) == ("parsed", f"{FB_PROMO}?ref=ig#reviews")
        await world.mend()
        settled = await world.settled(pending)
        assert settled.route.url == "https://acme.com/product/123?ref=ig#reviews"
