"""The examples of docs/routes.md: each block is a file that boots, and its route tests pass."""

import re
from pathlib import Path

import pytest

from service.config.route_checks import findings, refuse_failing_tests
from service.config.settings import compile_router, parse
from service.domain.routing import RouteRule
from tests.support import ENV

PAGE = (Path(__file__).parents[2] / "docs" / "routes.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
HEAD = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
domains = ["acme.link"]
default_screen = "home"
schemes = ["acme", "exp"]
"""


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_holds(example: str) -> None:
    """It says what it does in route tests, and none of its routes is in vain."""
    apps = parse(HEAD + example, ENV).apps
    assert apps["acme"].route_tests
    refuse_failing_tests(apps)
    assert findings(compile_router("acme", apps["acme"])) == []


def test_the_page_names_every_setting_of_a_route() -> None:
    """A new setting has its example."""
    for field in RouteRule.__struct_fields__:
        assert re.search(rf"^{field} = ", PAGE, re.MULTILINE), field
