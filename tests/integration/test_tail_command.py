"""``firstopen tail``: opens in a terminal, through a restart of the service."""

import json
from pathlib import Path

import httpx

from tests.process import free_ports, started

KEY = "dub_pk_acme"


def report(port: int, link: str, install_id: str) -> str:
    body = {
        "deepLink": f"http://acme.localhost:{port + 1}/{link}",
        "installId": install_id,
        "appVersion": "2.4",
    }
    reply = httpx.post(
        f"http://127.0.0.1:{port}/v1/opens", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=20
    )
    open_id: str = reply.json()["openId"]
    return open_id


def wait_for_followers(port: int, count: int) -> None:
    while f"firstopen_live_watchers {count}.0" not in httpx.get(f"http://127.0.0.1:{port}/metrics").text:
        pass


def test_opens_are_printed_through_a_restart(tmp_path: Path) -> None:
    """For people and as JSON; a stop of the service waits for neither, and both connect again."""
    port = free_ports(2)
    env = {"FIRSTOPEN_PORT": str(port), "FIRSTOPEN_DATA_DIR": str(tmp_path / "data")}
    with (
        started("tail", "--type", "deep_link", env=env, cwd=tmp_path) as early,
    ):
        assert "no firstopen answers at" in early.until("firstopen")
        assert early.popen.wait(20) == 1
    with started("serve", env=env, cwd=tmp_path) as first:
        first.ready(port)
        with (
            started("tail", "--type", "deep_link", env=env, cwd=tmp_path) as people,
            started("tail", "--json", "--outcome", "matched", env=env, cwd=tmp_path) as program,
        ):
            wait_for_followers(port, 2)
            report(port, "press", "install-of-a-press-page")
            open_id = report(port, "fb-promo", "install-of-anna")
            line = people.until("acme.localhost/fb-promo")
            assert "product" in line
            assert line.endswith("v2.4")
            assert json.loads(program.until("{"))["openId"] == open_id
            assert first.stop() == 0
            people.until("connecting again")
            program.until("connecting again")
            with started("serve", env=env, cwd=tmp_path) as second:
                second.ready(port)
                wait_for_followers(port, 2)
                open_id = report(port, "fb-promo", "install-of-ben")
                people.until("acme.localhost/fb-promo")
                assert json.loads(program.until("{"))["openId"] == open_id


def test_refusals(tmp_path: Path) -> None:
    """Of a name that is no session's, before a connection is made again and again."""
    port = free_ports(2)
    env = {"FIRSTOPEN_PORT": str(port), "FIRSTOPEN_DATA_DIR": str(tmp_path / "data")}
    with started("serve", env=env, cwd=tmp_path) as service:
        service.ready(port)
        for arguments, said in (
            (("--test-device", "me"), "testDevice: expected the name of a test session"),
            (("--app", "other"), "unknown app 'other'"),
            (("--url", "firstopen.internal"), "--url: expected http://"),
        ):
            with started("tail", *arguments, env=env, cwd=tmp_path) as refused:
                assert said in refused.until("firstopen: ")
                assert refused.popen.wait(20) == 2
