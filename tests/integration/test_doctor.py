"""``firstopen doctor`` names each thing that is wrong, over real HTTP to an embedded Dub with its faults.

Facts about Apple's and Android's files: Apple, "Supporting associated domains"; Android, "Verify Android
App Links". Facts about Dub, by the sections of dub-api.md: /track/lead and /track/sale (401 for a missing
key, 403 for a plan that lacks them), GET /events (403 without the Business plan).
"""

import json
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from service.cli.doctor import command as doctor_command
from service.config import demo
from service.config.settings import AndroidSettings, IosSettings, Settings, parse
from service.doctor import network
from service.doctor.checks import Check
from service.doctor.domains import domain_checks
from service.doctor.dub import dub_checks
from service.doctor.local import database_checks, settings_checks
from service.doctor.public import public_checks
from service.telemetry import configure_logs
from service.wiring.stores import prepare
from tests.process import free_ports, started
from tests.support import CONFIG, ENV

MAC = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0"
)
FINGERPRINT = ":".join(["14"] * 32)


class Sandbox:
    """An embedded Dub in a process of its own, on a port after which the demo's settings look for it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)
        self.settings = demo.settings({"FIRSTOPEN_PORT": str(port - 1)})

    def fault(self, **fault: Any) -> None:
        assert self.http.post("/sandbox/faults", json=fault).status_code in (200, 201)

    def reset(self) -> None:
        self.http.delete("/sandbox/faults", headers={"Content-Type": "application/json"})
        self.http.patch("/sandbox/settings", json={"plan": "enterprise"})

    def click(self) -> None:
        headers = {
            "Host": "acme.localhost",
            "User-Agent": "Mozilla/5.0 (Macintosh) Chrome/126.0.0.0 Safari/537.36",
        }
        assert self.http.get("/fb-promo", headers=headers).status_code in (200, 302)


@pytest.fixture(scope="module")
def of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    port = free_ports(2) + 1
    folder = tmp_path_factory.mktemp("sandbox")
    with started("sandbox", "--port", str(port), env={}, cwd=folder) as process:
        process.until("Try it")
        sandbox = Sandbox(port)
        yield sandbox
        sandbox.http.close()


@pytest.fixture
def sandbox(of_module: Sandbox) -> Iterator[Sandbox]:
    of_module.reset()  # a plan whose limits these tests do not reach
    yield of_module
    of_module.reset()


async def checked(settings: Settings) -> dict[str, Check]:
    async with network.client() as http:
        found = [*await dub_checks(settings, http), *await domain_checks(settings, http)]
    return {check.name: check for check in found}


def wrong(checks: Mapping[str, Check]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items() if check.status != "ok"}


async def test_a_dub_that_works_is_ok(sandbox: Sandbox) -> None:
    """Nothing to complain about, and nothing recorded: no open, no lead, no sale."""
    sandbox.click()
    checks = await checked(sandbox.settings)
    assert wrong(checks) == {}
    assert {"DNS", "proxy", "clock", "Dub /track/open", "acme: Dub /events"} <= checks.keys()
    for kind in ("leads", "sales"):
        headers = {"Authorization": "Bearer dub_x"}
        reply = sandbox.http.get("/events", params={"event": kind, "interval": "all"}, headers=headers)
        assert reply.json() == []


@pytest.mark.parametrize(
    ("fault", "name", "status", "said"),
    [
        ({"route": "/track/open", "status": 503}, "Dub /track/open", "fail", "503"),
        ({"route": "/track/open", "html": True}, "Dub /track/open", "fail", "not JSON"),
        ({"route": "/track/open", "reset": "before"}, "Dub /track/open", "fail", "closed|reset"),
        ({"route": "/track/open", "throttle": True}, "Dub /track/open", "warn", "429"),
        ({"route": "/events", "status": 401}, "acme: Dub /events", "fail", "401"),
        ({"route": "/events", "status": 500}, "acme: Dub /events", "fail", "500"),
        ({"route": "/events", "throttle": True}, "acme: Dub /events", "warn", "429"),
        ({"route": "/events", "html": True}, "acme: Dub /events", "fail", "cannot be read|not JSON"),
        ({"route": "/track/lead", "status": 401}, "acme: Dub /track/lead", "fail", "401"),
        ({"route": "/track/lead", "status": 403}, "acme: Dub /track/lead", "fail", "403"),
        ({"route": "/track/sale", "reset": "midBody"}, "acme: Dub /track/sale", "fail", "closed|reset|body"),
        ({"route": "/.well-known/*", "status": 404}, "acme.localhost: iOS", "fail", "404"),
        ({"route": "/.well-known/*", "html": True}, "acme.localhost: Android", "fail", "text/html"),
        ({"route": "/.well-known/*", "truncate": True}, "acme.localhost: iOS", "fail", "JSON|closed|body"),
    ],
)
async def test_each_fault_is_named(
    sandbox: Sandbox, fault: dict[str, Any], name: str, status: str, said: str
) -> None:
    """The check of the endpoint that has the fault fails or warns, with what was seen and a fix."""
    sandbox.click()
    sandbox.fault(**fault)
    checks = await checked(sandbox.settings)
    found = checks[name]
    assert found.status == status
    assert any(word in found.detail for word in said.split("|")), found.detail
    assert found.fix
    related = (
        {"acme.localhost: iOS", "acme.localhost: Android"} if ".well-known" in fault["route"] else {name}
    )
    assert wrong(checks).keys() <= related | ({"clock"} if fault["route"] == "/track/open" else set())


async def test_a_plan_without_events_is_named(sandbox: Sandbox) -> None:
    sandbox.http.patch("/sandbox/settings", json={"plan": "pro"})
    checks = await checked(sandbox.settings)
    assert checks["acme: Dub /events"].status == "fail"
    assert "plan" in checks["acme: Dub /events"].fix


async def test_a_dub_that_is_not_there_is_named() -> None:
    settings = msgspec.structs.replace(demo.settings({}), dub_base_url=f"http://127.0.0.1:{free_ports()}")
    checks = await checked(settings)
    for name in ("Dub /track/open", "acme: Dub /events", "acme: Dub /track/lead", "acme.localhost: iOS"):
        assert checks[name].status == "fail", name


async def test_a_name_that_does_not_exist_is_named() -> None:
    settings = msgspec.structs.replace(demo.settings({}), dub_base_url="http://no-such-host.invalid")
    assert (await checked(settings))["DNS"].status == "fail"


def scripted(answer: httpx.Response | dict[str, httpx.Response]) -> httpx.AsyncClient:
    """Answer every request the same, or by its URL; what is not listed is 404."""

    def reply(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.Response):
            return answer
        return answer.get(str(request.url), httpx.Response(404))

    return network.client(httpx.MockTransport(reply))


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, "ok"), (-3, "ok"), (20, "warn"), (-20, "warn"), (600, "fail"), (-600, "fail")]
)
async def test_a_clock_that_differs_is_named(seconds: float, status: str) -> None:
    """The match of clicks and opens allows for a minute between Dub's clock and ours."""
    date = formatdate(1_790_000_000 + seconds, usegmt=True)
    http = scripted(httpx.Response(200, headers={"Date": date}, json={"clickId": None, "link": None}))
    settings = parse(CONFIG, {**ENV, "DUB_BASE_URL": "http://127.0.0.1"})
    found = await dub_checks(settings, http, lambda: 1_790_000_000.5)
    assert next(check.status for check in found if check.name == "clock") == status


def with_apps(**ios: Any) -> Settings:
    settings = parse(CONFIG, ENV)
    app = msgspec.structs.replace(
        settings.apps["acme"],
        domains=("acme.link",),
        ios=IosSettings(app_ids=("ABCDE12345.com.acme.app",), **ios),
        android=AndroidSettings(package="com.acme.app", sha256_cert_fingerprints=(FINGERPRINT,)),
    )
    return msgspec.structs.replace(settings, apps={"acme": app})


AASA = {"applinks": {"details": [{"appIDs": ["ABCDE12345.com.acme.app"], "components": [{"/": "*"}]}]}}
OLD_AASA = {"applinks": {"apps": [], "details": [{"appID": "ABCDE12345.com.acme.app", "paths": ["*"]}]}}
OTHER_AASA = {"applinks": {"details": [{"appIDs": ["ABCDE12345.com.other.app"], "components": []}]}}
LINKS = [
    {
        "relation": ["delegate_permission/common.handle_all_urls"],
        "target": {
            "namespace": "android_app",
            "package_name": "com.acme.app",
            "sha256_cert_fingerprints": [FINGERPRINT],
        },
    }
]
DOMAIN = "https://acme.link/.well-known/"
CDN = "https://app-site-association.cdn-apple.com/a/v1/acme.link"


@pytest.mark.parametrize(
    ("apple", "copy", "android", "expected"),
    [
        (AASA, AASA, LINKS, ("ok", "ok", "ok")),
        (OLD_AASA, OLD_AASA, LINKS, ("ok", "ok", "ok")),
        (AASA, OLD_AASA, LINKS, ("ok", "warn", "ok")),
        (AASA, None, LINKS, ("ok", "warn", "ok")),
        (OTHER_AASA, None, LINKS, ("fail", None, "ok")),
        ({"applinks": "x"}, None, LINKS, ("fail", None, "ok")),
        (AASA, AASA, [], ("ok", "ok", "fail")),
        (AASA, AASA, {"x": 1}, ("ok", "ok", "fail")),
        (AASA, AASA, json.loads(json.dumps(LINKS).replace("14:14", "15:14")), ("ok", "ok", "fail")),
        (AASA, AASA, json.loads(json.dumps(LINKS).replace("handle_all_urls", "other")), ("ok", "ok", "fail")),
    ],
)
async def test_the_files_of_a_domain(
    apple: Any, copy: Any, android: Any, expected: tuple[str | None, ...]
) -> None:
    """Each file names the configured app; Apple's copy is the same file."""
    answers = {
        f"{DOMAIN}apple-app-site-association": httpx.Response(200, json=apple),
        f"{DOMAIN}assetlinks.json": httpx.Response(200, json=android),
        CDN: httpx.Response(404) if copy is None else httpx.Response(200, json=copy),
    }
    checks = {check.name: check for check in await domain_checks(with_apps(), scripted(answers))}
    names = ("acme.link: iOS", "acme.link: Apple's copy", "acme.link: Android")
    assert tuple(checks[name].status if name in checks else None for name in names) == expected
    assert all(check.fix for check in checks.values() if check.status != "ok")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(301, headers={"Location": "https://www.acme.link/"}),
        httpx.Response(200, text=json.dumps(AASA)),
        httpx.Response(200, headers={"Content-Type": "application/json"}, content=b"{"),
        httpx.Response(200, headers={"Content-Type": "application/json"}, content=b"{}" + b" " * 2_000_000),
    ],
    ids=["redirect", "text/plain", "not JSON", "too large"],
)
async def test_what_a_phone_would_not_accept(answer: httpx.Response) -> None:
    checks = await domain_checks(with_apps(), scripted(answer))
    assert {check.status for check in checks} == {"fail"}


@pytest.mark.parametrize(
    ("seen", "seen_with_header", "status"),
    [
        ("198.51.100.7", "198.51.100.7", "fail"),  # not global: of a range for documentation
        ("93.184.215.14", "93.184.215.14", "ok"),
        ("10.0.0.7", "10.0.0.7", "fail"),
        ("93.184.215.14", "203.0.113.77", "fail"),
    ],
)
async def test_the_chain_of_proxies(seen: str, seen_with_header: str, status: str) -> None:
    """A proxy's address, and a header of the caller's that is believed, are both named."""

    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/opens/dry-run":
            return httpx.Response(404)
        address = seen_with_header if "x-forwarded-for" in request.headers else seen
        return httpx.Response(200, headers={"Firstopen-Seen-Address": address}, json={})

    http = network.client(httpx.MockTransport(reply))
    (check,) = await public_checks(parse(CONFIG, ENV), http, "https://opens.acme.com/")
    assert (check.name, check.status) == ("X-Forwarded-For", status)


async def test_what_the_proxy_exposes_is_named() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        address = {"Firstopen-Seen-Address": "93.184.215.14"}
        return httpx.Response(303 if request.url.path == "/console" else 200, headers=address, json={})

    http = network.client(httpx.MockTransport(reply))
    found = await public_checks(parse(CONFIG, ENV), http, "http://opens.acme.com")
    named = {check.name for check in found if check.status == "warn"}
    assert named == {"HTTPS", "exposed /metrics", "exposed /schema", "exposed /console"}


async def test_the_database_of_another_secret_is_named(tmp_path: Path) -> None:
    env = {**ENV, "FIRSTOPEN_DATA_DIR": str(tmp_path)}
    settings = parse(CONFIG, env)
    (_, new) = await database_checks(settings)
    assert (new.name, new.status) == ("database", "ok")
    await prepare(settings, configure_logs("critical"))
    assert {check.status for check in await database_checks(settings)} == {"ok"}
    other = parse(CONFIG, {**env, "FIRSTOPEN_SECRET": "another secret of 32 characters and more"})
    checks = {check.name: check for check in await database_checks(other)}
    assert checks["secret"].status == "fail"
    assert "current,older" in checks["secret"].fix


async def test_a_database_that_is_away_is_named() -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_ports()}/none"
    (check,) = await database_checks(parse(CONFIG, {**ENV, "FIRSTOPEN_DATABASE_URL": url}))
    assert (check.name, check.status) == ("database", "fail")


def test_settings_that_fail_their_route_tests_are_named(tmp_path: Path) -> None:
    tests = '\n[[apps.acme.route_tests]]\nurl = "https://acme.com/nowhere"\nscreen = "product"\n'
    file = tmp_path / "firstopen.toml"
    check, *_ = settings_checks(parse(CONFIG + tests, ENV), {"FIRSTOPEN_CONFIG": str(file)})
    assert (check.name, check.status) == ("configuration", "fail")


def test_the_command(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON for scripts, a table for people; exit code 1 only if something fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRSTOPEN_PORT", str(sandbox.port - 1))
    monkeypatch.delenv("FIRSTOPEN_CONFIG", raising=False)
    done = CliRunner().invoke(doctor_command, ["--json"])
    assert done.exit_code == 0, done.output
    checks = json.loads(done.output)
    assert {"name": "clock", "status": "ok", "detail": "as Dub's, within 5 s", "fix": ""} in checks
    assert "service" in [check["name"] for check in checks if check["status"] == "warn"]  # none is running

    sandbox.fault(route="/track/lead", status=401)
    failed = CliRunner().invoke(doctor_command, [])
    assert failed.exit_code == 1
    assert "acme: Dub /track/lead" in failed.output
    assert "1 fail" in failed.output


def test_a_mistake_in_the_settings_is_the_first_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRSTOPEN_CONFIG", str(tmp_path / "none.toml"))
    done = CliRunner().invoke(doctor_command, ["--json"])
    assert done.exit_code == 1
    (check,) = json.loads(done.output)
    assert (check["name"], check["status"]) == ("configuration", "fail")
    assert "none.toml" in check["detail"]
