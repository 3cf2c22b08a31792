"""``firstopen dev``: from a link in a phone's browser to a matched first open, on a private address."""

from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from service.cli.dev import command as dev_command
from service.config import demo
from service.config.dev import dev_links, dev_settings
from tests.integration.world import IPHONE_BROWSER
from tests.process import Process, free_ports, started
from tests.support import CONFIG

KEY = {"Authorization": "Bearer dub_pk_acme"}


def first_launch(port: int, link: str) -> dict[str, object]:
    """Open a link in a phone's browser, then the app, from this machine."""
    clicked = httpx.get(link, headers={"User-Agent": IPHONE_BROWSER}, follow_redirects=False)
    assert clicked.status_code in (200, 302), clicked.text
    opened = httpx.post(
        f"http://127.0.0.1:{port}/v1/opens",
        json={"installId": "install-anna", "platform": "ios", "budgetMs": 5000},
        headers=KEY,
        timeout=10,
    )
    answer: dict[str, object] = opened.json()
    return answer


def ready(process: Process, port: int) -> str:
    process.until("this network")  # the last line of the greeting
    process.ready(port)
    return "\n".join(process.lines)


def test_a_first_launch_on_a_private_address_is_matched(tmp_path: Path) -> None:
    """``--lan`` on this machine's loopback address, which is private as a phone's on wifi is."""
    port = free_ports(2)
    arguments = ("dev", "--lan", "--address", "127.0.0.1", "--port", str(port))
    with started(*arguments, env={}, cwd=tmp_path) as process:
        printed = ready(process, port)
        link = f"http://127.0.0.1:{port + 1}/summer"
        answer = first_launch(port, link)
    assert link in printed
    assert "adb reverse" in printed
    assert "█" in printed or "▄" in printed, "a QR code"
    match = answer["match"]
    assert isinstance(match, dict)
    assert match["type"] == "ip", answer
    assert (tmp_path / "var" / "dev").is_dir()


def test_ones_own_app_has_a_link_for_each_of_its_routes(tmp_path: Path) -> None:
    port = free_ports(2)
    (tmp_path / "app.toml").write_text(CONFIG)
    arguments = ("dev", "--config", "app.toml", "--port", str(port))
    with started(*arguments, env={}, cwd=tmp_path) as process:
        printed = ready(process, port)
        link = f"http://127.0.0.1:{port + 1}/product"
        assert f"{link} -> https://acme.com/product/" in printed
        opened = httpx.post(
            f"http://127.0.0.1:{port}/v1/opens", json={"deepLink": link}, headers=KEY, timeout=10
        )
    assert opened.json()["route"]["screen"] == "product"


def test_every_route_has_a_link_that_lands_there() -> None:
    settings = dev_settings({}, host="127.0.0.1", address="192.168.1.20", config=None)
    links = dev_links(settings)
    assert {link.domain for link in links} == {"192.168.1.20", "acme.localhost"}
    assert {link.key for link in links} == {"product", "category", "invite"}
    assert settings.private_networks


def test_only_dev_matches_private_addresses() -> None:
    assert not demo.settings({}).private_networks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--lan", "--address", "phone"], "--address"), (["--config", "none.toml"], "none.toml")],
)
def test_a_mistake_is_named(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(dev_command, arguments)
    assert done.exit_code == 2
    assert said in done.output
