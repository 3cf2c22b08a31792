"""The configuration is read again while the service runs: what is taken over, kept and refused."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.config.files import RELOADED, ConfigFiles
from service.config.settings import Settings
from service.wiring import config_watch
from tests.integration.world import IPHONE_BROWSER, embedded_dub
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    ENV,
    FB_PROMO,
    SERVER_KEY,
    FakeClock,
    FakeDub,
    LogLines,
    Service,
    running,
    until,
)

MAINTENANCE = "\n[apps.acme.gate]\nmaintenance = true\n"
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the files more often than in production."""
    monkeypatch.setattr(config_watch, "CHECK_S", 0.01)


class Installation:
    """A service, and the file that configures it."""

    def __init__(self, service: Service, file: Path) -> None:
        self.service = service
        self.file = file

    async def health(self) -> dict[str, Any]:
        reply = await self.service.get("/health/ready")
        assert reply.status_code == 200
        found: dict[str, Any] = reply.json()
        return found

    async def write(self, text: str) -> dict[str, Any]:
        """Write the file, and return the service's health once it has read it."""
        before = (await self.health())["config"]
        self.file.write_text(text)
        return await self.until(lambda now: now["config"] not in (before, _later(before, now["config"])))

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for _ in range(2000):
            if holds(health := await self.health()):
                return health
            await asyncio.sleep(0.005)
        raise AssertionError(f"it never came to that: {health}")


def _later(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    return {**before, "checkedAt": now["checkedAt"]}


@contextlib.asynccontextmanager
async def installed(
    dub: httpx.AsyncBaseTransport, clock: FakeClock, folder: Path, config: str = CONFIG, **env: str
) -> AsyncIterator[Installation]:
    file = folder / "firstopen.toml"
    file.write_text(config)
    loaded = ConfigFiles({**ENV, **env, "FIRSTOPEN_CONFIG": str(file)}).read()
    app = create_app(
        loaded.settings,
        transport=dub,
        clock=clock,
        unix_time=clock.unix_time,
        sleep=clock.sleep,
        loaded=loaded,
    )
    async with running(app) as service:
        yield Installation(service, file)


@pytest.fixture
async def here(dub: FakeDub, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Installation]:
    async with installed(dub, clock, tmp_path) as installation:
        yield installation


async def test_a_gate_holds_repeated_opens_too(here: Installation, dub: FakeDub) -> None:
    """A changed gate is in the next answer, also in those from the cache; then it is gone again."""
    first = await here.service.open(FB_PROMO, install_id=ANNA)
    assert first.gate is None
    await here.write(CONFIG + MAINTENANCE)
    held = await here.service.open(FB_PROMO, install_id=ANNA)
    assert held.gate
    assert (held.gate.kind, held.repeat, held.click_id) == ("maintenance", True, first.click_id)
    recalled = await here.service.recall(first.open_id)
    assert recalled.gate == held.gate
    await here.write(CONFIG)
    assert (await here.service.open(FB_PROMO, install_id=ANNA)).gate is None
    assert dub.calls("/track/open") == 1


async def test_routes_count_for_new_and_for_repeated_opens(here: Installation) -> None:
    """A cached answer holds the destination and the click; its screen is that of the routes in force."""
    first = await here.service.open(FB_PROMO, install_id=ANNA)
    assert first.route.screen == "product"
    await here.write(CONFIG.replace('screen = "product"', 'screen = "item"'))
    again = await here.service.open(FB_PROMO, install_id=ANNA)
    assert (again.route.screen, again.repeat, again.click_id) == ("item", True, first.click_id)
    assert (await here.service.open(FB_PROMO, install_id=BEN)).route.screen == "item"


async def test_a_bad_file_changes_nothing(logs: LogLines, here: Installation) -> None:
    """The settings before it stay in force; health is 200, and names the problem until the file is mended."""
    await here.write(CONFIG + MAINTENANCE)
    rejected = await here.write(CONFIG + "\n[apps.acme.gate]\nmaintainance = false\n")
    problem = "apps.acme.gate: unknown setting `maintainance`, did you mean `maintenance`?"
    assert rejected["config"]["rejected"] == problem
    assert f"config: the file is not in force: {problem}" in rejected["degraded"]
    assert logs.events("config.rejected")[0]["problem"] == problem
    held = await here.service.open(FB_PROMO, install_id=ANNA)
    assert held.gate is not None
    metrics = (await here.service.get("/metrics")).text
    assert "firstopen_config_rejected 1.0" in metrics
    assert 'firstopen_config_reloads_total{outcome="rejected"} 1.0' in metrics
    mended = await here.write(CONFIG)
    assert mended["config"]["rejected"] is None
    assert not [each for each in mended["degraded"] if each.startswith("config")]
    assert "firstopen_config_rejected 0.0" in (await here.service.get("/metrics")).text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[apps.acme", "not TOML"),
        (b"", "apps: is required"),
        (b"\xff\xfe", "cannot read"),
        (
            CONFIG.encode() + b'[[apps.acme.route_tests]]\nurl = "https://acme.com/x"\nscreen = "product"\n',
            "expected https://acme.com/x to land on",
        ),
        (
            CONFIG.encode().replace(b'"ACME_SERVER_KEYS"', b'"NO_SUCH_VARIABLE"'),
            "NO_SUCH_VARIABLE is not set",
        ),
        (None, "cannot read"),
    ],
)
async def test_every_kind_of_bad_file_is_refused(
    here: Installation, content: bytes | None, problem: str
) -> None:
    """Whatever is wrong with it, the service goes on with what it has."""
    if content is None:
        here.file.unlink()
    else:
        here.file.write_bytes(content)
    health = await here.until(lambda now: now["config"]["rejected"] is not None)
    assert problem in health["config"]["rejected"]
    assert (await here.service.open(FB_PROMO, install_id=ANNA)).route.screen == "product"


async def test_a_deprecated_setting_is_warned_of(logs: LogLines, here: Installation) -> None:
    """What a changed file sets without effect is accepted, and named as at a start."""
    changed = CONFIG.replace('schemes = ["acme"]', 'schemes = ["acme"]\ncrowd_limit = 5')
    health = await here.write(changed + MAINTENANCE)
    assert (health["config"]["rejected"], health["config"]["waitingForRestart"]) == (None, [])
    assert logs.events("config.deprecated")[0]["instead"] == "min_confidence"
    assert (await here.service.open(FB_PROMO, install_id=ANNA)).gate is not None


async def test_what_needs_a_restart_is_named_and_kept(logs: LogLines, here: Installation) -> None:
    """Settings of the process keep their values; those of apps in the same file are taken over."""
    (here.file.parent / ".env").write_text("FIRSTOPEN_PORT=9000\nFIRSTOPEN_BUDGET_MS=900\n")
    changed = CONFIG + MAINTENANCE + "\n[cache]\nmemory_mb = 64\nanswer_ttl_s = 60\n[server]\ndrain_ms = 5\n"
    here.file.write_text(changed)
    health = await here.until(lambda now: bool(now["config"]["waitingForRestart"]))
    named = [
        "FIRSTOPEN_BUDGET_MS",
        "FIRSTOPEN_PORT",
        "cache.answer_ttl_s",
        "cache.memory_mb",
        "server.drain_ms",
    ]
    assert health["config"]["waitingForRestart"] == named
    assert "config: FIRSTOPEN_PORT takes effect after a restart" in health["degraded"]
    assert logs.events("config.needs_restart")[0]["settings"] == named
    assert (await here.service.open(FB_PROMO, install_id=ANNA)).gate is not None
    back = await here.write(CONFIG)
    assert back["config"]["waitingForRestart"] == ["FIRSTOPEN_BUDGET_MS", "FIRSTOPEN_PORT"]


def test_every_setting_of_the_process_has_a_name_that_operators_know() -> None:
    """What is not taken over is named by its table in the file, or by its variable."""
    tables = {"cache", "dub", "outbox", "installs", "server", "console"}
    variables = {"secrets", "host", "port", "ops_port", "budget_ms", "forwarded_allow_ips", "log_level"}
    variables |= {"dub_base_url", "data_dir", "database_url", "tracing", "demo", "private_networks"}
    assert set(Settings.__struct_fields__) == RELOADED | tables | variables


async def test_apps_and_keys_come_and_go(here: Installation) -> None:
    """A new app is served, a removed key is refused at once, and its console sessions end."""
    assert (await here.service.report({}, Authorization="Bearer dub_pk_new")).status_code == 401
    login = await here.service.get("/console/login")
    token = re.search(r'name="token" value="([^"]+)"', login.text)
    assert token
    form = {"token": token[1], "key": SERVER_KEY}
    assert (await here.service.post("/console/login", data=form)).status_code == 303
    assert (await here.service.get("/console/opens")).status_code == 200
    new = '\n[apps.new]\npublishable_keys = ["dub_pk_new"]\ndomains = ["new.link"]\ndefault_screen = "new"\n'
    removed = CONFIG.replace('server_keys_env = "ACME_SERVER_KEYS"\n', "").replace(
        '"dub_pk_acme"', '"dub_pk_2"'
    )
    await here.write(removed + new)
    opened = await here.service.report({"installId": ANNA}, Authorization="Bearer dub_pk_new")
    assert opened.json()["route"]["screen"] == "new"
    assert (await here.service.report({})).status_code == 401
    assert (await here.service.report({}, Authorization="Bearer dub_pk_2")).status_code == 200
    assert (await here.service.post("/v1/opens/dry-run", json={}, headers=AS_SERVER)).status_code == 401
    assert (await here.service.get("/console/opens")).status_code == 303


async def test_keys_in_the_env_file_are_read_again(dub: FakeDub, clock: FakeClock, tmp_path: Path) -> None:
    """A server key is replaced in the .env, firstopen.toml being the same; the environment still wins."""
    (tmp_path / ".env").write_text("NEW_KEYS=server-key-one\n")
    config = CONFIG.replace('"ACME_SERVER_KEYS"', '"NEW_KEYS"')
    async with installed(dub, clock, tmp_path, config) as here:

        async def dry_run(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return (await here.service.post("/v1/opens/dry-run", json={}, headers=headers)).status_code

        assert await dry_run("server-key-one") == 200
        (tmp_path / ".env").write_text("NEW_KEYS=server-key-two\nACME_DUB_API_KEY=ignored\n")
        for _ in range(2000):
            if await dry_run("server-key-two") == 200:
                break
            await asyncio.sleep(0.005)
        assert await dry_run("server-key-two") == 200
        assert await dry_run("server-key-one") == 401


async def test_rate_limits_change(here: Installation) -> None:
    """Limits are set, raised and removed; what was counted against a limit that stays still counts."""
    assert "ratelimit-limit" not in (await here.service.report({"installId": ANNA})).headers
    await here.write(CONFIG.replace('schemes = ["acme"]', 'schemes = ["acme"]\nrate_limit = "1/hour"'))
    assert (await here.service.report({"installId": "install-01"})).status_code == 200
    assert (await here.service.report({"installId": "install-02"})).status_code == 429
    kept = CONFIG.replace('schemes = ["acme"]', 'schemes = ["acme"]\nrate_limit = "1/hour"') + MAINTENANCE
    await here.write(kept)
    assert (await here.service.report({"installId": "install-03"})).status_code == 429
    await here.write(CONFIG + '\n[limits]\nper_key = "100/hour"\nper_address = "2/hour"\n')
    replies = [await here.service.report({"installId": f"install-1{n}"}) for n in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    await here.write(CONFIG)
    assert (await here.service.report({"installId": "install-04"})).status_code == 200


async def test_domains_schemes_leads_and_screens_change(here: Installation) -> None:
    """The rest of an app's settings count from the next request on."""
    lead = {"eventName": "Sign up", "customerExternalId": "1", "clickId": "d0UtZqE0BZuBPrJS"}
    assert (await here.service.report({"dubDomain": "new.link"})).status_code == 403
    assert (await here.service.open("other://x", install_id=ANNA)).route.url is None
    assert (await here.service.post("/v1/leads", json=lead)).status_code != 403
    changed = (
        CONFIG.replace('"go.acme.com"]', '"new.link"]')
        .replace('schemes = ["acme"]', 'schemes = ["acme", "other"]')
        .replace('leads = "client"', 'leads = "server"', 1)
        .replace('default_screen = "home"', 'default_screen = "begin"\nupdate_screen = "too_old"')
    )
    await here.write(changed)
    assert (await here.service.report({"dubDomain": "new.link"})).status_code == 200
    assert (await here.service.report({"dubDomain": "go.acme.com"})).status_code == 403
    opened = await here.service.open("other://x", install_id=BEN)
    assert (opened.route.url, opened.route.screen) == ("other://x", "begin")
    assert (await here.service.post("/v1/leads", json=lead)).status_code == 403
    old = await here.service.open("https://acme.com/gift/1", install_id=BEN, app_version="2")
    assert old.route.screen == "too_old"


async def test_matching_is_switched_on_off_and_changed(clock: FakeClock, tmp_path: Path) -> None:
    """Modes and rules of matching by IP address count for the next open, also those of one app only."""
    off = CONFIG
    on = CONFIG.replace('ip_matching = "off"', "analytics_calls_per_s = 100")
    dub = embedded_dub(clock)
    async with (
        installed(dub, clock, tmp_path, off) as here,
        httpx.AsyncClient(transport=dub, base_url="http://localhost") as phone,
    ):

        async def matched(number: int) -> str:
            """Return how a phone that has just clicked is matched, on a network of its own."""
            ip = f"203.0.113.{number}"
            headers = {"Host": "acme.link", "X-Real-IP": ip, "User-Agent": IPHONE_BROWSER}
            await phone.get("/fb-promo", headers=headers)
            clock.advance(0.5)
            opened = await here.service.open(
                install_id=f"install-{number:03}", platform="ios", headers={"X-Forwarded-For": ip}
            )
            return opened.match.type

        assert await matched(1) == "none"
        await here.write(on)
        assert await matched(2) == "ip"
        await here.write(on + "\n[apps.acme.gate]\nmatching = false\n")
        assert await matched(3) == "none"
        await here.write(on.replace("analytics_calls_per_s = 100", 'ip_matching = "consented"'))
        assert await matched(4) == "none"
        await here.write(on.replace("analytics", 'shared_networks = ["203.0.113.5/32"]\nanalytics'))
        assert (await matched(5), await matched(6)) == ("none", "ip")
        await here.write(on)
        assert await matched(7) == "ip"


async def test_webhooks_come_and_go(dub: FakeDub, clock: FakeClock, tmp_path: Path) -> None:
    """An endpoint that is added gets the next events; its problems are named only while it is configured."""
    (tmp_path / ".env").write_text(
        "HOOK_URL=http://127.0.0.1:9/hook\nHOOK_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"
    )
    hook = (
        '\n[apps.acme.webhook]\nurl_env = "HOOK_URL"\nsecret_env = "HOOK_SECRET"\n'
        "allow_private_targets = true\n"
    )
    async with installed(dub, clock, tmp_path) as here:
        await here.service.open(FB_PROMO, install_id=ANNA)
        await here.write(CONFIG + hook)
        await here.service.open(FB_PROMO, install_id=BEN)
        for _ in range(2000):
            metrics = (await here.service.get("/metrics")).text
            if 'firstopen_outbox_entries{kind="webhook"} 1.0' in metrics:
                break
            await asyncio.sleep(0.005)
        assert 'firstopen_outbox_entries{kind="webhook"} 1.0' in metrics
        await here.write(CONFIG)
        await here.service.open(FB_PROMO, install_id="install-carla")
        assert 'firstopen_outbox_entries{kind="webhook"} 1.0' in (await here.service.get("/metrics")).text


async def test_an_open_in_flight_keeps_the_routes_that_it_began_with(
    here: Installation, dub: FakeDub
) -> None:
    """No open sees half of a change: the app's settings are those of the moment when its key was checked."""
    dub.blocked = asyncio.Event()
    waiting = asyncio.create_task(here.service.open(FB_PROMO, install_id=ANNA, budget_ms=10_000))
    await until(lambda: dub.requests)
    await here.write(CONFIG.replace('screen = "product"', 'screen = "item"') + MAINTENANCE)
    dub.blocked.set()
    answer = await waiting
    assert (answer.route.screen, answer.gate) == ("product", None)
    again = await here.service.open(FB_PROMO, install_id=ANNA)
    assert (again.route.screen, again.gate is not None) == ("item", True)


async def test_a_configmap_is_swapped_by_its_link(dub: FakeDub, clock: FakeClock, tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap as links through ``..data``, and swaps that link by a rename."""
    mount = tmp_path / "mount"
    for version, text in (("..v1", CONFIG), ("..v2", CONFIG + MAINTENANCE)):
        (mount / version).mkdir(parents=True)
        (mount / version / "firstopen.toml").write_text(text)
    (mount / "..data").symlink_to("..v1")
    (mount / "firstopen.toml").symlink_to("..data/firstopen.toml")
    loaded = ConfigFiles({**ENV, "FIRSTOPEN_CONFIG": str(mount / "firstopen.toml")}).read()
    app = create_app(loaded.settings, transport=dub, clock=clock, unix_time=clock.unix_time, loaded=loaded)
    async with running(app) as service:
        here = Installation(service, mount / "firstopen.toml")
        revision = (await here.health())["config"]["revision"]
        (mount / "..data_tmp").symlink_to("..v2")
        (mount / "..data_tmp").rename(mount / "..data")
        await here.until(lambda now: now["config"]["revision"] != revision)
        assert (await service.open(FB_PROMO, install_id=ANNA)).gate is not None


async def test_a_service_without_a_file_says_nothing_about_one(service: Service) -> None:
    """The demo and tests have no file: health has no ``config``."""
    assert "config" not in (await service.get("/health/ready")).json()
