"""Test the deep links of an app end to end, without Dub: ``run.py maestro`` or ``run.py detox``.

It starts ``firstopen dev`` (the service and an embedded Dub) on free ports, taps a short link as the browser
of a phone does before the store, and runs the flow in the folder ``maestro`` or ``detox`` beside this file on
the simulator or emulator that is running. ``--dry-run`` needs neither a phone nor the tool: it does over HTTP
what the app would do, and checks that firstopen leads it to the same screens as the flow expects.

It needs the command ``firstopen`` and Python's standard library only. Copy this folder into your app, put
your own ``firstopen.toml`` into it, and your link and screens below and into the flow.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What the flows expect of a first launch after a tap on this link, and then of a deep link. ``firstopen dev``
# prints its links: one for each route, named for the screen.
SHORT_LINK = "product"
FIRST_SCREEN = "Product 1"
DEEP_LINK = "acme://category/shoes"
NEXT_SCREEN = "Category shoes"

PUBLISHABLE_KEY = "dub_pk_acme"
BROWSERS = {
    "ios": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/18.0 Mobile/15E148 Safari/604.1",
    "android": "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0.0.0 Mobile Safari/537.36",
}
HERE = Path(__file__).parent
READY_WITHIN_S = 30
ANSWER_WITHIN_S = 10


def main() -> int:
    """Run one flow; return its exit status."""
    parser = argparse.ArgumentParser(description="Test the deep links of an app end to end.")
    parser.add_argument("tool", choices=["maestro", "detox"])
    parser.add_argument("--platform", choices=list(BROWSERS), default="android", help="[android]")
    parser.add_argument("--dry-run", action="store_true", help="over HTTP, without a phone")
    chosen = parser.parse_args()
    tool = shutil.which(chosen.tool, path=f"node_modules/.bin{os.pathsep}{os.environ['PATH']}")
    if tool is None and not chosen.dry_run:
        parser.error(f"{chosen.tool} is not installed; --dry-run takes the same steps over HTTP, without it")
    with firstopen_dev() as (url, links):
        tap(f"{links}/{SHORT_LINK}", chosen.platform)
        if chosen.dry_run or tool is None:
            return dry_run(url, chosen.platform)
        if chosen.platform == "android" and shutil.which("adb"):  # the phone's own 127.0.0.1 leads here, too
            port = f"tcp:{url.rpartition(':')[2]}"
            subprocess.run(["adb", "reverse", port, port], check=True)
        arguments = {
            "maestro": ["test", "-e", f"FIRSTOPEN_URL={url}", str(HERE / "maestro" / "first-launch.yaml")],
            "detox": ["test", "-C", str(HERE / "detox" / ".detoxrc.js"), "-c", chosen.platform],
        }[chosen.tool]
        env = {**os.environ, "FIRSTOPEN_URL": url}
        return subprocess.run([tool, *arguments], env=env, check=False).returncode


@contextlib.contextmanager
def firstopen_dev() -> Iterator[tuple[str, str]]:
    """Run ``firstopen dev`` with new data; yield the base URLs of the service and of the links."""
    port = two_free_ports()
    url, links = (f"http://127.0.0.1:{number}" for number in (port, port + 1))
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        process = subprocess.Popen(
            ["firstopen", "dev", "--config", str(HERE / "firstopen.toml"), "--port", str(port)],
            env={**os.environ, "FIRSTOPEN_DATA_DIR": folder},
            stdout=log,
            text=True,
            stderr=subprocess.STDOUT,
        )
        try:
            if not is_ready(process, url):
                log.seek(0)
                raise SystemExit(f"firstopen dev did not start:\n{log.read()}")
            say(f"firstopen at {url}, links at {links}")
            yield url, links
        finally:
            process.terminate()
            process.wait()


def two_free_ports() -> int:
    """Return the first of two free ports that follow each other: the embedded Dub has the second."""
    while True:
        with contextlib.suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


def is_ready(process: "subprocess.Popen[str]", url: str) -> bool:
    """Wait until the service is ready; return False if it ends, or takes too long."""
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            if ask("GET", f"{url}/health/ready")[0] == HTTPStatus.OK:
                return True
        time.sleep(0.1)
    return False


def tap(link: str, platform: str) -> None:
    """Open a short link as the phone's browser does. Where it leads is not followed: that is a store."""
    status, _ = ask("GET", link, {"User-Agent": BROWSERS[platform]})
    say(f"tapped {link}: {status}")


def dry_run(url: str, platform: str) -> int:
    """Do as the app: launch for the first time, then open a deep link. Return 1 if a screen is wrong."""
    install = {"installId": str(uuid.uuid4()), "installedAt": int(time.time()), "platform": platform}
    for what, link, expected in (
        ("first launch", None, FIRST_SCREEN),
        (DEEP_LINK, DEEP_LINK, NEXT_SCREEN),
    ):
        answer = report_open(url, {**install, "deepLink": link, "budgetMs": 5000})
        route = answer["route"]
        shown = " ".join([route["screen"].capitalize(), *route["params"].values()])
        say(f"{what}: {shown} (match {answer['match']['type']})")
        if shown != expected:
            say(f"expected {expected}, got {json.dumps(answer)}")
            return 1
    return 0


def report_open(url: str, fields: dict[str, Any]) -> Any:
    """Report an open as an app does, and return the answer."""
    headers = {"Authorization": f"Bearer {PUBLISHABLE_KEY}", "Content-Type": "application/json"}
    status, body = ask("POST", f"{url}/v1/opens", headers, json.dumps(fields))
    if status != HTTPStatus.OK:
        raise SystemExit(f"POST /v1/opens: {status} {body.decode()}")
    return json.loads(body)


def ask(
    method: str, url: str, headers: dict[str, str] | None = None, body: str | None = None
) -> tuple[int, bytes]:
    """Send a request, and return the answer's status and body; raises ``OSError``."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_WITHIN_S)
    with contextlib.closing(connection):
        connection.request(method, parts.path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def say(text: str) -> None:
    """Report progress."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
