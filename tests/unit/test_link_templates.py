"""Templates of short links: which destinations they make, and which settings are refused."""

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config.settings import SettingsError, parse
from service.domain.errors import InvalidField
from service.domain.short_links import LinkTemplate, LinkTemplateRule, day_of
from tests.support import CONFIG, ENV

RULE = LinkTemplateRule(
    name="invite",
    url="https://acme.com/invite/{from}?code={code}#{from}",
    parameters={"from": 12, "code": 4},
)
TEMPLATE = LinkTemplate(RULE, "acme.link", ())


def test_parameters_are_put_in_percent_encoded() -> None:
    """A value stays where its parameter stands: it cannot add a path, a query or a fragment."""
    made = TEMPLATE.destination({"from": "a/b?c#d", "code": "é&=1"})
    assert made == "https://acme.com/invite/a%2Fb%3Fc%23d?code=%C3%A9%26%3D1#a%2Fb%3Fc%23d"


@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=4))
def test_no_value_leaves_its_place(who: str, code: str) -> None:
    """Whatever an app sends, the destination has the template's host and shape, or the value is refused."""
    try:
        made = urlsplit(TEMPLATE.destination({"from": who, "code": code}))
    except InvalidField:
        return
    assert (made.scheme, made.netloc) == ("https", "acme.com")
    empty, invite, last = made.path.split("/")
    assert (empty, invite, unquote(last)) == ("", "invite", who)
    assert made.query.count("&") == 0
    assert unquote(made.query) == f"code={code}"


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"from": "anna"}, "parameters.code: is required"),
        ({"from": "anna", "code": "1", "to": "x"}, "parameters: expected only code, from"),
        ({"from": "a" * 13, "code": "1"}, "parameters.from: expected 1 to 12 printable characters"),
        ({"from": "", "code": "1"}, "parameters.from: expected 1 to 12"),
        ({"from": "..", "code": "1"}, "parameters.from: .* not only dots"),
        ({"from": "a\nb", "code": "1"}, "parameters.from: expected 1 to 12 printable"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, str], problem: str) -> None:
    """The message names the parameter and what was expected, and repeats no value."""
    with pytest.raises(InvalidField, match=f"^{problem}"):
        TEMPLATE.destination(parameters)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ('url = "https://acme.com/{from}"', r"url: has the parameters from, not none"),
        ('url = "https://acme.com/"\nparameters = { from = 9 }', "url: has the parameters none, not from"),
        ('url = "https://{from}.com/"\nparameters = { from = 9 }', "url: parameters may be in the path"),
        ('url = "https://acme.com@{from}/"\nparameters = { from = 9 }', "url: expected a URL of the web"),
        ('url = "{from}"\nparameters = { from = 9 }', "url: expected a URL of the web or of the app"),
        (
            'url = "javascript:{from}"\nparameters = { from = 9 }',
            "url: expected a URL of the web or of the app",
        ),
        ('url = "https://acme.com/{"', "url: expected a URL of the web"),
        ('url = "https://acme.com/{From}"\nparameters = { From = 9 }', "parameters.From: expected a name"),
        ('url = "https://acme.com/"\ndomain = "globex.link"', "domain: expected one of the app's domains"),
        ('url = "https://acme.com/"\nprefix = "a b"', "prefix: expected letters"),
        ('url = "https://acme.com/"\nper_install_per_day = 0', "per_install_per_day: "),
        ('url = "https://acme.com/{x}"\nparameters = { x = 0 }', "parameters"),
    ],
)
def test_a_bad_template_is_refused_by_name(settings: str, problem: str) -> None:
    """A template that could send people anywhere stops the start."""
    table = f'\n[[apps.acme.link_templates]]\nname = "invite"\n{settings}\n'
    own = CONFIG.replace("\n[[apps.acme.routes]]", f"{table}\n[[apps.acme.routes]]", 1)
    with pytest.raises(SettingsError, match=rf"^apps\.acme\.link_templates\[0\]\.{problem}"):
        parse(own, ENV)


def test_a_template_may_lead_into_the_app() -> None:
    """The app's own scheme is a destination, too; a name is used once."""
    table = '\n[[apps.acme.link_templates]]\nname = "a"\nurl = "acme://product/{id}"\nparameters = {id = 9}\n'
    own = CONFIG.replace("\n[[apps.acme.routes]]", f"{table}\n[[apps.acme.routes]]", 1)
    assert parse(own, ENV).apps["acme"].link_templates[0].per_install_per_day == 10
    twice = CONFIG.replace("\n[[apps.acme.routes]]", f"{table}{table}\n[[apps.acme.routes]]", 1)
    with pytest.raises(SettingsError, match=r"link_templates\[1\].name: 'a' is already used"):
        parse(twice, ENV)


def test_days_are_those_of_utc() -> None:
    """A quota ends at midnight UTC."""
    began, ends = day_of(1_785_585_600 + 3600)
    assert (began % 86_400, ends - began) == (0, 86_400)
    assert began <= 1_785_585_600 + 3600 < ends
