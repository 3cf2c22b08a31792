"""The real command, as a real process, over real sockets."""

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.server.run import listen
from tests.k8s import dockerfile
from tests.k8s.check import ROOT
from tests.process import Process, finished, free_ports, started

CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
domains = ["acme.link"]
default_screen = "home"
"""
HEAD = (
    b"POST /v1/opens HTTP/1.1\r\nHost: x\r\n"
    b"Authorization: Bearer dub_pk_acme\r\nContent-Type: application/json\r\n"
)


class Demo:
    """The demo under way, and one open of it."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer dub_pk_acme"}, timeout=20
        )

    def open(self, key: str, **fields: Any) -> dict[str, Any]:
        body = {"deepLink": f"http://acme.localhost:{self.port + 1}/{key}", **fields}
        response = self.http.post("/v1/opens", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def raw(self, data: bytes, *, half_close: bool = True) -> bytes:
        """Send bytes as they are, and read what comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            chunks = []
            while chunk := sock.recv(65_536):
                chunks.append(chunk)
            return b"".join(chunks)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    port = free_ports(2)
    cwd = tmp_path_factory.mktemp("demo")
    with started("serve", env={"FIRSTOPEN_PORT": str(port)}, cwd=cwd) as process:
        process.ready(port)
        running = Demo(process, port)
        with running.http:
            yield running


def test_the_printed_curl_works(demo: Demo) -> None:
    """serve prints, flushed, what runs, one curl and a blank line; and that curl works."""
    line = demo.process.until("curl -s")
    assert demo.process.until("") == ""
    assert f"http://127.0.0.1:{demo.port}" in demo.process.lines[1]
    assert sum("curl " in line for line in demo.process.lines) == 1
    answer = json.loads(subprocess.run(shlex.split(line), capture_output=True, check=True).stdout)
    assert answer["route"]["screen"] == "product"
    assert len(answer["clickId"]) == 16
    assert answer["match"]["type"] == "deep_link"


def test_two_phones_over_real_http(demo: Demo) -> None:
    """Same address, same User-Agent, same link: two installs get two clicks, one install gets one."""
    anna, ben = (demo.open("summer", installId=install) for install in ("install-1", "install-2"))
    again = demo.open("summer", installId="install-1")
    assert anna["clickId"] != ben["clickId"]
    assert (again["clickId"], again["repeat"], again["source"]) == (anna["clickId"], True, "cache")


@pytest.mark.parametrize(
    ("key", "screen", "reason"),
    [
        ("fb-promo", "product", "matched"),
        ("summer", "category", "matched"),
        ("join-anna", "invite", "matched"),
        ("press", "home", "unlisted"),
        ("no-such-link", "home", "default"),
    ],
)
def test_the_demo_links(demo: Demo, key: str, screen: str, reason: str) -> None:
    """Each demo link lands where the demo's routes say."""
    route = demo.open(key, installId=f"install-{key}")["route"]
    assert (route["screen"], route["reason"]) == (screen, reason)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        HEAD + b"X-Bad: a\nb\r\n\r\n",
        HEAD + b"X-Bad: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X-Bad: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: -1\r\n\r\n{}",
    ],
    ids=["nonsense", "newline", "nul", "carriage return", "length"],
)
def test_what_is_no_http_is_refused_in_dubs_shape(demo: Demo, data: bytes) -> None:
    """What cannot be read as HTTP gets a 400 in the house's shape and is counted; the connection ends."""
    before = unread(demo)
    head, _, body = demo.raw(data).partition(b"\r\n\r\n")
    assert unread(demo) == before + 1
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "bad_request"


def unread(demo: Demo) -> float:
    lines = httpx.get(f"http://127.0.0.1:{demo.port}/metrics").text.splitlines()
    name = 'firstopen_requests_total{route="unrouted",status="400"} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (HEAD + b"X-Long: ", b"x" * 16_384),
        (HEAD, b"X-More: 1\r\n" * 1500),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-Trailer: 1\r\n" * 1200),
    ],
    ids=["a long header", "many headers", "trailers"],
)
def test_a_head_is_bounded(demo: Demo, begin: bytes, piece: bytes) -> None:
    """Headers and trailers that do not end are refused after 64 KiB and a read or two."""
    with socket.create_connection(("127.0.0.1", demo.port), timeout=20) as sock:
        sock.sendall(begin)
        for _ in range(100):
            readable, _, _ = select.select([sock], [], [], 0.02)
            if readable:
                break
            sock.sendall(piece)
        assert b"HTTP/1.1 400 " in sock.recv(65_536)


def test_a_trailer_is_no_header(demo: Demo) -> None:
    """A key in a trailer is no key."""
    reply = demo.raw(
        b"POST /v1/opens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer dub_pk_acme\r\n\r\n"
    )
    assert reply.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("split", [0, 3, 10_000], ids=["with the head", "in pieces", "after the head"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_upgrade_that_is_not_ours_is_ignored(demo: Demo, split: int, *, chunked: bool) -> None:
    """A POST that offers h2c (Java's HttpClient does) is answered; its body is never read as a request."""
    key = "press" if chunked else "summer"
    body = json.dumps(
        {"deepLink": f"http://acme.localhost:{demo.port + 1}/{key}", "installId": "java-install"}
    )
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body.encode()) if chunked else body.encode()
    smuggled = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    head = HEAD + offer + framing + b"\r\n\r\n"
    pieces = [head + sent[:split], sent[split:] + smuggled] if split < len(sent) else [head, sent + smuggled]
    with socket.create_connection(("127.0.0.1", demo.port), timeout=20) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.05)  # so that the pieces are read apart; either way the answer is the same
        reply = b""
        while chunk := sock.recv(65_536):
            reply += chunk
    assert reply.count(b"HTTP/1.1 ") == 1
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["link"]["key"] == key


def test_pipelined_requests_are_each_answered(demo: Demo) -> None:
    """A body near the limit, with the next request behind it in one write, is two requests."""
    body = b'{"dubDomain": "acme.localhost"}' + b" " * 60_000
    first = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    second = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert demo.raw(first + second, half_close=False).count(b"HTTP/1.1 200 ") == 2


def test_a_body_over_the_limit_on_a_real_socket(demo: Demo) -> None:
    """413 whether the length is announced or not, and the next connection works."""
    announced = demo.raw(HEAD + b"Connection: close\r\nContent-Length: 70000\r\n\r\n" + b" " * 70_000)
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    chunked = demo.raw(
        HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 17 + b"0\r\n\r\n"
    )
    assert announced.startswith(b"HTTP/1.1 413 ")
    assert chunked.startswith(b"HTTP/1.1 413 ")
    assert demo.open("fb-promo", installId="install-after")["clickId"]


def test_sigterm_drains(tmp_path: Path) -> None:
    """SIGTERM: readiness goes false, the open under way gets its answer, and the exit is clean.

    On the wire, Dub got the link and the device's User-Agent, and nothing else.
    """
    asked, answer = threading.Event(), threading.Event()
    seen: list[bytes] = []
    with _serving_over(_slow_dub(asked, answer, seen), tmp_path) as (process, base):
        replies: list[httpx.Response] = []
        opening = threading.Thread(target=lambda: replies.append(_report(base)))
        opening.start()
        assert asked.wait(20)
        process.popen.send_signal(signal.SIGTERM)
        process.until("service.stopping")
        ready = httpx.get(f"{base}/health/ready")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "service_unavailable")
        answer.set()
        opening.join(20)
        assert process.popen.wait(20) == 0
        assert (replies[0].status_code, replies[0].json()["clickId"]) == (200, "c" * 16)
        assert "service.stopped" in process.rest()[-1]
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /track/open HTTP/1.1\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {b"host", b"accept-encoding", b"content-type", b"content-length", b"user-agent"}
    assert body == b'{"deepLink":"https://acme.link/x"}'


def test_an_interrupt_ends_the_demo_at_once(tmp_path: Path) -> None:
    """Ctrl-C is a clean exit without the wait for load balancers."""
    port = free_ports(2)
    with started("serve", "--port", str(port), env={}, cwd=tmp_path) as process:
        process.ready(port)
        began = time.monotonic()
        assert process.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 5


def test_a_taken_port_is_said_plainly(tmp_path: Path) -> None:
    """Somebody else's port: one line that says which, exit 2, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = finished(["serve", "--port", str(port)], tmp_path)
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in text
    assert "Traceback" not in text


def test_a_taken_ops_port_is_said_plainly(tmp_path: Path) -> None:
    """The operators' port is taken before anything is said about it, like the other one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"FIRSTOPEN_PORT": str(free_ports(2)), "FIRSTOPEN_OPS_PORT": str(port)}
        status, text = finished(["serve"], tmp_path, env)
    assert (status, f"cannot listen on 127.0.0.1:{port}" in text) == (2, True)


@pytest.fixture(scope="module")
def two_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Serve on two ports; give a client of the public one and one of the operators'."""
    port = free_ports(3)
    env = {"FIRSTOPEN_PORT": str(port), "FIRSTOPEN_OPS_PORT": str(port + 2)}
    with started("serve", env=env, cwd=tmp_path_factory.mktemp("two-ports")) as process:
        process.ready(port)
        key = {"Authorization": "Bearer dub_pk_acme"}
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key, timeout=20) as public,
            httpx.Client(base_url=f"http://127.0.0.1:{port + 2}", headers=key, timeout=20) as ops,
        ):
            assert f"docs: {ops.base_url}/schema" in process.until("service  ")
            yield public, ops


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/metrics/", "//metrics", "/%6Detrics", "/schema", "/schema/openapi.json"),
        *("/", "/console", "/console/login", "//console/login", "/assets/0/style.css"),
    ],
)
def test_the_public_port_has_no_operators_paths(
    two_ports: tuple[httpx.Client, httpx.Client], method: str, path: str
) -> None:
    """With FIRSTOPEN_OPS_PORT, operators' pages do not exist on FIRSTOPEN_PORT, whatever the Host says."""
    public, ops = two_ports
    reply = public.request(method, f"{public.base_url}{path}", headers={"Host": ops.base_url.netloc.decode()})
    assert reply.status_code == 404
    assert method == "HEAD" or reply.json()["error"]["code"] == "not_found"
    assert "allow" not in reply.headers


def test_the_ops_port_has_operators_paths(two_ports: tuple[httpx.Client, httpx.Client]) -> None:
    """It serves metrics and schema; a 404 on the wrong port is counted like every other."""
    public, ops = two_ports
    public.get("/metrics")
    metrics = ops.get("/metrics")
    assert metrics.status_code == 200
    assert 'firstopen_requests_total{route="unrouted",status="404"}' in metrics.text
    timed = 'firstopen_request_seconds_count{method="any",route="unrouted",status_class="4xx"}'
    assert timed in metrics.text
    for path in ("/", "/schema", "/console/login"):
        assert ops.get(path).status_code == 200
    assert "/v1/opens" in ops.get("/schema/openapi.json").json()["paths"]


def test_the_ops_port_has_nothing_for_apps(two_ports: tuple[httpx.Client, httpx.Client]) -> None:
    """Apps' paths are on FIRSTOPEN_PORT only, health is on both."""
    public, ops = two_ports
    assert public.post("/v1/opens", json={"installId": "install-anna"}).status_code == 200
    for path in ("/v1/opens", "/track/open"):
        reply = ops.post(path, json={})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert ops.get("/events").status_code == 404
    for client in (public, ops):
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200


def test_every_address_is_ipv4_and_ipv6(tmp_path: Path) -> None:
    """FIRSTOPEN_HOST=:: answers on IPv4 too, so the image's health check, which asks 127.0.0.1, works."""
    port = free_ports(1)
    (tmp_path / "firstopen.toml").write_text(CONFIG)
    env = {
        "FIRSTOPEN_CONFIG": "firstopen.toml",
        "FIRSTOPEN_SECRET": "x" * 32,
        "FIRSTOPEN_HOST": "::",
        "FIRSTOPEN_PORT": str(port),
    }
    with started("serve", env=env, cwd=tmp_path) as process:
        process.ready(port)
        assert httpx.get(f"http://[::1]:{port}/health/ready").status_code == 200
        image = dockerfile.read(ROOT / "Dockerfile")[1][-1]
        _, _, check = image.last("HEALTHCHECK").text.partition("CMD ")
        command = [sys.executable, *json.loads(check)[1:]]
        assert subprocess.run(command, env=env, check=False).returncode == 0


def test_every_address_where_the_kernel_has_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without IPv6 in the kernel, :: is every IPv4 address, and not a boot that fails."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("::", 0) as sock:
        assert sock.family == socket.AF_INET
        socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=20).close()


def test_a_config_that_is_missing_or_wrong_stops_the_boot(tmp_path: Path) -> None:
    """FIRSTOPEN_CONFIG that names nothing, or something wrong, never starts the demo."""
    status, text = finished(["serve"], tmp_path, {"FIRSTOPEN_CONFIG": "nowhere.toml"})
    assert (status, "FIRSTOPEN_CONFIG: cannot read nowhere.toml" in text) == (2, True)
    (tmp_path / "wrong.toml").write_text(
        CONFIG + '[[apps.acme.routes]]\npattern = "https://a.b/("\nscreen = "x"\n'
    )
    env = {"FIRSTOPEN_CONFIG": "wrong.toml", "FIRSTOPEN_SECRET": "x" * 32}
    status, text = finished(["serve"], tmp_path, env)
    assert (status, "apps.acme.routes[0].pattern" in text) == (2, True)


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"FIRSTOPEN_SECRET": "abc"}, "FIRSTOPEN_SECRET: expected a secret of 32 characters or more"),
        (
            {"FIRSTOPEN_BUDGETMS": "9"},
            "FIRSTOPEN_BUDGETMS: unknown variable, did you mean FIRSTOPEN_BUDGET_MS?",
        ),
        ({"ACME_DUB_API_KEY": ""}, "dub_api_key_env: the environment variable ACME_DUB_API_KEY is not set"),
        ({"FIRSTOPEN_DATA_DIR": "firstopen.toml"}, "FIRSTOPEN_DATA_DIR: cannot write to firstopen.toml"),
        ({"FIRSTOPEN_DATA_DIR": "/proc/nowhere"}, "FIRSTOPEN_DATA_DIR: cannot write to /proc/nowhere"),
    ],
)
def test_what_cannot_work_stops_the_boot(tmp_path: Path, env: dict[str, str], problem: str) -> None:
    """One line says what to change."""
    (tmp_path / "firstopen.toml").write_text(CONFIG + 'dub_api_key_env = "ACME_DUB_API_KEY"\n')
    complete = {
        "FIRSTOPEN_CONFIG": "firstopen.toml",
        "FIRSTOPEN_SECRET": "x" * 32,
        "ACME_DUB_API_KEY": "dub_1",
    }
    status, text = finished(["serve"], tmp_path, {**complete, **env})
    assert (status, problem in text) == (2, True), text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"FIRSTOPEN_HOST": "0.0.0.0"}, "FIRSTOPEN_HOST: the demo listens on 127.0.0.1 only"),
        ({"FIRSTOPEN_PORT": "65535"}, "FIRSTOPEN_PORT: the demo also needs the next port"),
        ({"FIRSTOPEN_OPS_PORT": "8001"}, "FIRSTOPEN_OPS_PORT: 8001 is the port of the demo's sandbox"),
        ({"FIRSTOPEN_CONFIG": ""}, "FIRSTOPEN_CONFIG: expected a path, got nothing"),
    ],
)
def test_the_demo_stays_at_home(tmp_path: Path, env: dict[str, str], problem: str) -> None:
    """The demo, with its known keys, is never served beyond this machine, nor by accident."""
    status, text = finished(["serve"], tmp_path, env)
    assert (status, problem in text) == (2, True)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Asked twice, it gives up on what is in flight."""
    asked, answer = threading.Event(), threading.Event()
    with _serving_over(_slow_dub(asked, answer, []), tmp_path) as (process, base):
        opening = threading.Thread(target=_report_in_vain, args=(base,))
        opening.start()
        assert asked.wait(20)
        process.popen.send_signal(signal.SIGTERM)
        process.until("service.stopping")
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        process.popen.wait(20)
        assert time.monotonic() - began < 5
        answer.set()
        opening.join(20)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_log_that_cannot_be_written_fails_nothing(tmp_path: Path, unbuffered: str) -> None:
    """When whoever reads our output goes away, opens are answered, and a stop is clean."""
    port = free_ports(2)
    reader, writer = os.pipe()
    env = {"FIRSTOPEN_PORT": str(port), "PYTHONUNBUFFERED": unbuffered}
    with started("serve", env=env, cwd=tmp_path, stdout=writer) as process:
        os.close(writer)
        process.ready(port)
        os.close(reader)
        for number in range(5):
            response = httpx.post(
                f"http://127.0.0.1:{port}/v1/opens",
                json={
                    "deepLink": f"http://acme.localhost:{port + 1}/press",
                    "installId": f"install-{number}",
                },
                headers={"Authorization": "Bearer dub_pk_acme"},
            )
            assert (response.status_code, response.json()["pending"]) == (200, False)
        assert process.stop(signal.SIGINT) == 0


@contextlib.contextmanager
def _serving_over(dub_port: int, cwd: Path) -> Iterator[tuple[Process, str]]:
    """Serve one app against a Dub on this port; give the process and its base URL."""
    port = free_ports(1)
    config = cwd / "firstopen.toml"
    config.write_text(CONFIG)
    env = {
        "FIRSTOPEN_CONFIG": str(config),
        "FIRSTOPEN_SECRET": "x" * 32,
        "FIRSTOPEN_PORT": str(port),
        "DUB_BASE_URL": f"http://127.0.0.1:{dub_port}",
    }
    with started("serve", env=env, cwd=cwd) as process:
        process.ready(port)
        yield process, f"http://127.0.0.1:{port}"


def _report(base: str) -> httpx.Response:
    """Report an open with time to wait."""
    return httpx.post(
        f"{base}/v1/opens",
        json={"deepLink": "https://acme.link/x", "installId": "install-anna", "budgetMs": 10_000},
        headers={"Authorization": "Bearer dub_pk_acme"},
        timeout=20,
    )


def _report_in_vain(base: str) -> None:
    """Report an open that nobody will answer."""
    with contextlib.suppress(httpx.HTTPError):
        _report(base)


def _slow_dub(asked: threading.Event, answer: threading.Event, seen: list[bytes]) -> int:
    """Answer one /track/open, when told to. Returns the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as sock:
            seen.append(sock.recv(65_536))
            asked.set()
            answer.wait(20)
            body = b'{"clickId": "cccccccccccccccc", "link": null}'
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])
