"""`firstopen sandbox`, as a person or a CI job runs it: a real process on a free port."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from service.cli.sandbox import command as sandbox_command

RUN = (
    sys.executable,
    "-W",
    "error",
    "-c",
    "from service.cli.sandbox import command; command()",
)


class Running:
    """A sandbox process, and what it said before it was ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.greeting: list[str] = []
        for line in process.stdout:
            if line == "\n":
                break
            self.greeting.append(line.rstrip())
        base = re.search(r"http://[\d.]+:\d+", self.greeting[0])
        assert base is not None, self.greeting
        self.base = base[0]

    def open(self, deep_link: str) -> httpx.Response:
        return httpx.post(f"{self.base}/track/open", json={"deepLink": deep_link}, timeout=10)


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    """Run the command on a free port until the block ends; it must end cleanly when told to."""
    command = (*RUN, "--port", "0", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.terminate()
            process.wait(10)
        assert process.stderr is not None
        complaints = [line for line in process.stderr if "timeout graceful shutdown exceeded" not in line]
        assert complaints == []


def test_greeting_and_demo_links() -> None:
    """It says what runs, where its links go, and one curl, as plain text; the links work."""
    with running() as sandbox:
        assert [line for line in sandbox.greeting if "acme.localhost" in line and "->" in line]
        assert len([line for line in sandbox.greeting if "->" in line]) == 4
        curl = sandbox.greeting[-1]
        found = re.fullmatch(r"curl -s (\S+) -d '(.*)'", curl)
        assert found is not None, curl
        answer = httpx.post(found[1], content=found[2], timeout=10)
        assert answer.json()["link"]["key"] == "fb-promo"
        click = httpx.get(f"{sandbox.base}/press", headers={"host": "acme.localhost:1"}, timeout=10)
        assert click.headers["location"] == "/sandbox/destination?url=https://acme.com/press/2026"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "links.toml",
            '[[links]]\ndomain = "my.link"\nkey = "k"\nurl = "https://my.com"\nexpiresAt = 2030-01-01\n',
        ),
        ("links.json", '[{"domain": "my.link", "key": "k", "url": "https://my.com"}]'),
        ("more.json", '{"links": [{"domain": "my.link", "key": "k", "url": "https://my.com"}]}'),
    ],
)
def test_links_file(tmp_path: Path, name: str, text: str) -> None:
    """Links come from a TOML or a JSON file; without the demo there are no others."""
    file = tmp_path / name
    file.write_text(text.replace("2030-01-01", "2030-01-01T00:00:00Z"))
    with running("--links", str(file), "--no-demo") as sandbox:
        assert sandbox.open("https://my.link/k").status_code == 200
        assert sandbox.open("https://acme.localhost/fb-promo").status_code == 404


def test_no_links_at_all() -> None:
    """With nothing to start with it still starts."""
    with running("--no-demo") as sandbox:
        assert sandbox.open("https://acme.link/x").status_code == 404


def test_data_survives_a_kill(tmp_path: Path) -> None:
    """With --data, a click that was answered is there after kill -9, and so is its deduplication."""
    data = str(tmp_path / "dub.sqlite")
    command = (*RUN, "--port", "0", "--data", data)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        first = Running(process).open("https://acme.localhost/fb-promo").json()
        process.send_signal(signal.SIGKILL)
    with running("--data", data) as sandbox:
        assert sandbox.open("https://acme.localhost/fb-promo").json() == first


def test_stops_although_a_call_is_stalled() -> None:
    """A call that a fault stalls does not keep the process from ending."""
    with running() as sandbox:
        fault = {"route": "/track/open", "stall": True}
        assert httpx.post(f"{sandbox.base}/sandbox/faults", json=fault, timeout=10).status_code == 201
        host, port = sandbox.base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(b"POST /track/open HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}")
            while not httpx.get(f"{sandbox.base}/sandbox/calls", timeout=10).json():
                pass
            sandbox.process.terminate()
            assert sandbox.process.wait(10) == -signal.SIGTERM


def test_reset_under_the_servers_own_loop() -> None:
    """A reset is a reset on the event loop and parser that the command itself chooses."""
    with running() as sandbox:
        httpx.post(f"{sandbox.base}/sandbox/faults", json={"route": "*", "reset": "before"}, timeout=10)
        with pytest.raises(httpx.ReadError):
            sandbox.open("https://acme.localhost/fb-promo")
        httpx.delete(f"{sandbox.base}/sandbox/faults", timeout=10)
        httpx.post(f"{sandbox.base}/sandbox/faults", json={"route": "*", "reset": "midBody"}, timeout=10)
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.open("https://acme.localhost/fb-promo")


def test_help_teaches() -> None:
    """--help shows how to make links, move the clock and set faults, each on a line of its own."""
    shown = CliRunner().invoke(sandbox_command, ["--help"]).output
    for lesson in ("/links", "/sandbox/clock", "/sandbox/faults", "/sandbox/calls", "X-Real-IP"):
        assert lesson in shown
    assert re.search(
        r"^\s*curl :8001/sandbox/clock -H .* -d '\{\"advanceS\": 691200\}'\s*$", shown, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("links.toml", "[[links]\n", "links.toml"),
        ("links.json", '[{"domain": "my.link", "key": "k"}]', "url"),
        ("links.json", '[{"domain": "my.link", "key": "k", "url": "https://x", "iso": "y"}]', "iso"),
        ("links.json", "{", "links.json"),
    ],
)
def test_mistakes_in_a_links_file(tmp_path: Path, name: str, text: str, word: str) -> None:
    """A mistake in the file ends the command and says where it is."""
    file = tmp_path / name
    file.write_text(text)
    result = CliRunner().invoke(sandbox_command, ["--links", str(file)])
    assert result.exit_code == 2
    assert word in result.output


def test_port_taken() -> None:
    """A port that is taken is said in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(sandbox_command, ["--port", port])
    assert result.exit_code == 2
    assert f"127.0.0.1:{port}" in result.output


def test_serving_imports_no_sandbox() -> None:
    """`firstopen serve` against the real Dub does not pay for the sandbox's imports."""
    code = (
        "import sys; import service.cli.main, service.cli.serve;"
        "print([name for name in sys.modules if name.startswith(('service.sandbox', 'ua_parser'))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
