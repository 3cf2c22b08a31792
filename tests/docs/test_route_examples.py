"""The configuration that the documentation shows is valid, and its routes lead where the pages say."""

import re

import pytest

from service.config.route_checks import findings, refuse_failing_tests
from service.config.settings import compile_router, parse
from service.domain.routing import RouteRule
from tests.docs.pages import ROOT, blocks_of, name_of, pages
from tests.support import ENV

HEAD = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
domains = ["acme.link"]
default_screen = "home"
schemes = ["acme", "exp"]
"""
# What a block outside of docs/routes.md may rely on: the route of firstopen init's file.
STARTED = f"""{HEAD}
[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"
screen = "product"
"""
ROUTES = ROOT / "docs" / "routes.md"
EXAMPLES = [block for block in blocks_of(ROUTES) if block.language == "toml"]
OTHERS = [
    block for page in pages() if page != ROUTES for block in blocks_of(page) if block.language == "toml"
]


@pytest.mark.parametrize("text", [block.text for block in EXAMPLES])
def test_an_example_of_routes_holds(text: str) -> None:
    """It says in route tests what it does, and URLs can reach each of its routes."""
    apps = parse(f"{HEAD}\n{text}", ENV).apps
    assert apps["acme"].route_tests
    refuse_failing_tests(apps)
    assert findings(compile_router("acme", apps["acme"])) == []


@pytest.mark.parametrize("text", [block.text for block in OTHERS])
def test_other_configuration_is_valid(text: str) -> None:
    refuse_failing_tests(parse(f"{STARTED}\n{text}", ENV, keys_required=False).apps)


def test_the_page_names_every_setting_of_a_route() -> None:
    """A new setting has its example."""
    for field in RouteRule.__struct_fields__:
        assert re.search(rf"^{field} = ", ROUTES.read_text(), re.MULTILINE), field
    assert name_of(ROUTES) == "docs/routes.md"
