"""Webhooks: what a backend is told of opens, leads and erasures, through a real HTTP server of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from click.testing import CliRunner
from standardwebhooks.webhooks import WebhookVerificationError

from service.app import create_app
from service.cli.main import main
from service.config.settings import parse
from service.domain.device_sessions import new_session
from service.outbox.policy import WEBHOOKS_MAX
from service.storage.database import Database
from service.storage.device_sessions import DeviceSessionStore
from service.storage.engines.sqlite import SqliteEngine
from service.webhooks.endpoint_health import FAILURES_MAX
from tests.integration.test_conversions import LEAD, LEAD_ANSWER, SALE, answer, refuse
from tests.integration.world import AS_SERVER, MATCHING, World, build, embedded_dub, started_over
from tests.receiver import HOOK, OLD_SECRET, SECRET, Received, Receiver, Script, receiver
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    ENV,
    FB_PROMO,
    OTHER_KEY,
    FakeClock,
    FakeDub,
    Handler,
    LogLines,
    Service,
    running,
)


def with_hook(config: str, table: str = HOOK) -> str:
    return config.replace("[apps.globex]", f"{table}\n[apps.globex]")


def env_of(backend: Receiver, secrets: str = SECRET) -> Mapping[str, str]:
    return {**ENV, "ACME_WEBHOOK_URL": backend.url, "ACME_WEBHOOK_SECRET": secrets}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon, and let the outbox look often."""
    monkeypatch.setattr("service.webhooks.delivery._BACKOFF_MIN_S", 0.05)
    monkeypatch.setattr("service.webhooks.endpoint_health.PAUSE_MIN_S", 0.1)
    monkeypatch.setattr("service.webhooks.endpoint_health.PAUSE_MAX_S", 0.3)
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.05)


@pytest.fixture
async def backend() -> AsyncIterator[Receiver]:
    async with receiver() as each:
        yield each


@asynccontextmanager
async def hooked(
    backend: Receiver, dub: FakeDub, *, table: str = HOOK, secrets: str = SECRET
) -> AsyncIterator[Service]:
    """Run the service on real clocks, with the backend as acme's."""
    app = create_app(parse(with_hook(CONFIG, table), env_of(backend, secrets)), transport=dub)
    async with running(app) as service:
        yield service


@pytest.fixture
async def service(backend: Receiver, dub: FakeDub, logs: LogLines) -> AsyncIterator[Service]:  # noqa: ARG001
    async with hooked(backend, dub) as each:
        yield each


@pytest.fixture
async def world(backend: Receiver, clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock, with_hook(MATCHING), env_of(backend)):
        yield each


async def test_an_attributed_install_is_reported_once(service: Service, backend: Receiver) -> None:
    """An open gets a click: the backend hears which, once, however often the app reports it."""
    opened = await service.open(deep_link=FB_PROMO, install_id=ANNA)
    await service.open(deep_link=FB_PROMO, install_id=ANNA)
    (event,) = await backend.has(1)
    assert event.verify() == event.event
    assert event.event["type"] == "open.matched"
    data = event.event["data"]
    assert data.pop("openedAt").endswith("Z")
    assert data == {
        "app": "acme",
        "openId": opened.open_id,
        "clickId": opened.click_id,
        "link": {
            "id": "link_fb-promo",
            "domain": "acme.link",
            "key": "fb-promo",
            "url": "https://acme.com/product/123",
        },
        "route": {"screen": "product"},
        "match": {"type": "deep_link", "guaranteed": True},
    }
    assert ANNA.encode() not in event.body
    assert event.headers["Content-Type"] == "application/json"
    await service.open(deep_link=FB_PROMO, install_id=BEN)
    await backend.has(2)
    assert set(backend.times().values()) == {1}


async def test_a_lead_is_reported_after_its_open(service: Service, dub: FakeDub, backend: Receiver) -> None:
    """However a lead names its install, its event names the click, and comes after open.matched."""
    first_refused(backend)
    for number, install in enumerate(("install-one", "install-two", "install-three")):
        opened = await service.open(deep_link=FB_PROMO, install_id=install)
        subject = ({"openId": opened.open_id}, {"installId": install}, {"clickId": opened.click_id})[number]
        dub.script = conversions(opened.click_id)
        lead = {"eventName": "Sign up", "customerExternalId": f"user_{number}", "customerEmail": "x@y.z"}
        reply = await service.post("/v1/leads", json={**lead, **subject})
        assert reply.json()["status"] == "delivered"
        dub.script = None
        about = f'"{opened.click_id}"'.encode()
        events = [each for each in await backend.has(2 * number + 2) if about in each.body]
        if number == 2:  # a lead that names only a click has no install
            events.sort(key=lambda each: each.type, reverse=True)
        assert [each.type for each in events] == ["open.matched", "lead.delivered"]
        assert events[1].event["data"] == {
            "app": "acme",
            "leadId": reply.json()["leadId"],
            "openId": None if number == 2 else opened.open_id,
            "clickId": opened.click_id,
            "link": {
                "id": "link_1",
                "domain": "acme.link",
                "key": "fb-promo",
                "url": "https://acme.com/product/123",
            },
            "eventName": "Sign up",
            "customerExternalId": f"user_{number}",
        }
    assert "x@y.z" not in "".join(each.body.decode() for each in backend.requests)


async def test_leads_on_dubs_wire_are_reported_too(service: Service, dub: FakeDub, backend: Receiver) -> None:
    """/track/lead: the same event; a sale has none."""
    dub.script = conversions("click00000000000")
    for path, body in (("/track/sale", SALE), ("/track/lead", LEAD)):
        assert (await service.post(path, json=body, headers=AS_SERVER)).status_code == 200
    (event,) = await backend.has(1)
    assert event.type == "lead.delivered"
    assert event.event["data"]["customerExternalId"] == "user_1"


async def test_a_lead_that_dub_refuses_is_reported_dead(
    service: Service, dub: FakeDub, backend: Receiver
) -> None:
    """With the reason that GET /v1/leads gives."""
    dub.script = refuse(422, "unprocessable_entity")
    body = {"eventName": "Sign up", "customerExternalId": "anna", "clickId": "click00000000000"}
    reply = await service.post("/v1/leads", json=body)
    assert reply.status_code == 422
    (event,) = await backend.has(1)
    lead_id = event.event["data"]["leadId"]
    status = (await service.get(f"/v1/leads/{lead_id}")).json()
    assert status["status"] == "dead"
    assert event.type == "lead.dead"
    assert event.event["data"] == {
        "app": "acme",
        "leadId": lead_id,
        "openId": None,
        "clickId": "click00000000000",
        "eventName": "Sign up",
        "customerExternalId": "anna",
        "reason": status["reason"],
    }


async def test_only_wanted_events_are_sent(backend: Receiver, dub: FakeDub) -> None:
    """Events that are not listed are not even queued."""
    table = f'{HOOK}events = ["lead.delivered"]\n'
    async with hooked(backend, dub, table=table) as service:
        opened = await service.open(deep_link=FB_PROMO, install_id=ANNA)
        dub.script = conversions(opened.click_id)
        lead = {"eventName": "Sign up", "customerExternalId": "anna", "openId": opened.open_id}
        assert (await service.post("/v1/leads", json=lead)).status_code == 200
        await backend.has(1)
        assert backend.types() == ["lead.delivered"]
        assert 'event="open.matched"' not in (await service.get("/metrics")).text


async def test_an_erased_install_is_mentioned_once_more(
    service: Service, backend: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queued events are deleted; install.erased lists its opens, and is the last that is said of it."""
    monkeypatch.setattr("service.attribution.webhook_events._AFTER_ERASURE_S", 1.0)

    async def script(received: Received) -> web.StreamResponse:
        return web.Response(status=204 if received.type == "install.erased" else 503)

    backend.script = script
    anna = [
        (await service.open(deep_link=link, install_id=ANNA)).open_id
        for link in (FB_PROMO, "https://acme.link/gift")
    ]
    ben = await service.open(deep_link=FB_PROMO, install_id=BEN)
    await backend.asked(2)
    erased = await service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert erased.json()["outbox"] == 2
    await backend.has(1)  # what was under way at the erasure has been refused by now, and is not tried again
    backend.script = None
    await backend.has(2)
    by_type = {each.type: each.event["data"] for each in backend.events}
    assert by_type["open.matched"]["openId"] == ben.open_id
    assert by_type["install.erased"] == {"app": "acme", "openIds": sorted(anna)}
    again = await service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert again.status_code == 200
    assert len(await backend.has(2)) == 2


async def test_every_listed_secret_signs(backend: Receiver, dub: FakeDub) -> None:
    """During a rotation a backend may know the old secret or the new one; another one does not verify."""
    async with hooked(backend, dub, secrets=f"{SECRET} {OLD_SECRET}") as service:
        await service.open(deep_link=FB_PROMO, install_id=ANNA)
        (event,) = await backend.has(1)
    assert len(event.headers["webhook-signature"].split()) == 2
    assert event.verify(SECRET) == event.verify(OLD_SECRET) == event.event
    with pytest.raises(WebhookVerificationError):
        event.verify("whsec_" + "A" * 43 + "=")
    first = event.headers["webhook-signature"].split()[0]
    alone = Received(event.id, event.event, {**event.headers, "webhook-signature": first}, event.body)
    assert alone.verify(SECRET) == event.event


@pytest.mark.parametrize("fault", ["fails", "redirects", "stalls", "resets", "is away", "floods"])
async def test_a_faulty_backend_gets_each_event_once_and_in_order(
    backend: Receiver, dub: FakeDub, monkeypatch: pytest.MonkeyPatch, fault: str, logs: LogLines
) -> None:
    """Whatever it does to the first requests, each event arrives, in order for each install."""
    monkeypatch.setattr("service.webhooks.sender.TIMEOUT_S", 0.3)
    bad = 6

    async def script(_: Received) -> web.StreamResponse:
        if len(backend.requests) > bad:
            return web.Response()
        if fault == "redirects":
            raise web.HTTPTemporaryRedirect(f"{backend.url}/elsewhere")
        if fault == "stalls":
            await asyncio.sleep(5)
        if fault == "resets":
            raise ConnectionResetError
        return web.Response(status=500, text="x" * (100_000 if fault == "floods" else 1))

    backend.script = script
    if fault == "is away":
        await backend.down()
    installs = [f"install-{number}" for number in range(4)]
    async with hooked(backend, dub) as service:
        clicks = {}
        for install in installs:
            opened = await service.open(deep_link=FB_PROMO, install_id=install)
            clicks[opened.click_id] = opened.open_id
            dub.script = conversions(opened.click_id)
            lead = {"eventName": "Sign up", "customerExternalId": install, "openId": opened.open_id}
            assert (await service.post("/v1/leads", json=lead)).json()["status"] == "delivered"
            dub.script = None
        if fault == "is away":
            await until_metric(
                service, 'firstopen_webhooks_total{app="acme",event="open.matched",outcome="retried"}'
            )
            await backend.up()
        events = await backend.has(2 * len(installs))
    assert all(path == "/hooks" for path in backend.paths)
    for click_id in clicks:
        about = [each.type for each in events if each.event["data"]["clickId"] == click_id]
        assert about == ["open.matched", "lead.delivered"]
    assert "hooks" not in logs.text.replace("webhooks", "")
    assert SECRET not in logs.text


async def test_a_pause_that_the_backend_asks_for_is_kept(service: Service, backend: Receiver) -> None:
    """503 with Retry-After: nothing is sent to it before."""
    times: list[float] = []

    async def script(_: Received) -> web.StreamResponse:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            return web.Response(status=503, headers={"Retry-After": "1"})
        return web.Response()

    backend.script = script
    await service.open(deep_link=FB_PROMO, install_id=ANNA)
    await backend.asked(1)
    await service.open(deep_link=FB_PROMO, install_id=BEN)
    await backend.has(2)
    assert times[1] - times[0] > 0.9


async def test_410_is_final_and_an_operator_may_send_it_again(
    service: Service, backend: Receiver, data_dir: Path, tmp_path: Path
) -> None:
    """A dead letter of kind webhook; retried, it has the id that it had."""
    backend.script = always(410)
    await service.open(deep_link=FB_PROMO, install_id=ANNA)
    (refused,) = await backend.asked(1)
    config = tmp_path / "firstopen.toml"
    config.write_text(with_hook(CONFIG))
    env = {**env_of(backend), "FIRSTOPEN_CONFIG": str(config), "FIRSTOPEN_DATA_DIR": str(data_dir)}

    def outbox(*args: str) -> str:
        return CliRunner().invoke(main, ["outbox", *args], env=env).output

    await until_metric(service, 'firstopen_outbox_dead_entries{kind="webhook"} 1.0')
    text = await asyncio.to_thread(outbox)
    assert refused.id in text
    assert "410" in text
    assert "webhook" in text
    assert '"type": "open.matched"' in await asyncio.to_thread(outbox, "show", refused.id, "--reveal")
    backend.script = None
    assert "1 queued again" in await asyncio.to_thread(outbox, "retry", refused.id)
    (taken,) = await backend.has(1)
    assert (taken.id, taken.body) == (refused.id, refused.body)


async def test_a_stalled_backend_delays_nothing_else(backend: Receiver, dub: FakeDub) -> None:
    """All its slots are taken: opens and leads go on, and so do another app's webhooks."""
    async with receiver() as other:
        table = HOOK + HOOK.replace("acme", "globex").replace("ACME", "GLOBEX")
        env = {**env_of(backend), "GLOBEX_WEBHOOK_URL": other.url, "GLOBEX_WEBHOOK_SECRET": OLD_SECRET}
        stalled = asyncio.Event()

        async def script(_: Received) -> web.StreamResponse:
            await stalled.wait()
            return web.Response()

        backend.script = script
        app = create_app(parse(with_hook(CONFIG, table), env), transport=dub)
        async with running(app) as service:
            for number in range(WEBHOOKS_MAX + 4):
                await service.open(deep_link=FB_PROMO, install_id=f"install-{number}")
            await backend.asked(WEBHOOKS_MAX)
            opened = await service.open(deep_link=FB_PROMO, install_id=ANNA, budget_ms=1000)
            assert not opened.pending
            dub.script = conversions(opened.click_id)
            lead = {"eventName": "Sign up", "customerExternalId": "anna", "openId": opened.open_id}
            assert (await service.post("/v1/leads", json=lead)).json()["status"] == "delivered"
            dub.script = None
            headers = {"Authorization": f"Bearer {OTHER_KEY}"}
            await service.open(deep_link="https://globex.link/x", install_id=BEN, headers=headers)
            (event,) = await other.has(1)
            assert event.verify(OLD_SECRET)["data"]["app"] == "globex"
            assert len(backend.requests) == WEBHOOKS_MAX
            stalled.set()
            await backend.has(WEBHOOKS_MAX + 6)


async def test_a_dead_backend_costs_a_probe_now_and_then(
    service: Service, backend: Receiver, logs: LogLines
) -> None:
    """After five failures in a row one event is tried at a time; once one is taken, all others follow."""
    probes_under_way = most_at_once = 0
    before = WEBHOOKS_MAX + FAILURES_MAX - 1  # so many may begin before the fifth failure is known

    async def script(_: Received) -> web.StreamResponse:
        nonlocal probes_under_way, most_at_once
        is_probe = len(backend.requests) > before
        probes_under_way += is_probe
        most_at_once = max(most_at_once, probes_under_way)
        await asyncio.sleep(0.01)
        probes_under_way -= is_probe
        return web.Response(status=500)

    backend.script = script
    for number in range(40):
        await service.open(deep_link=FB_PROMO, install_id=f"install-{number}")
    await backend.asked(before + 3)
    assert most_at_once == 1
    assert "apps.acme.webhook" in str((await service.get("/health/ready")).json()["degraded"])
    backend.script = None
    await backend.has(40)
    assert logs.events("webhooks.paused")
    assert logs.events("webhooks.resumed")
    assert (await service.get("/health/ready")).json()["degraded"] == [
        "apps.globex: no dub_api_key_env: no leads, sales or events"
    ]


async def test_events_of_test_devices_are_marked(
    service: Service, dub: FakeDub, backend: Receiver, data_dir: Path
) -> None:
    """Opens of a test session and the leads that name them, so that the backend does not count them."""
    session = new_session("acme", time.time())
    database = Database(SqliteEngine(data_dir, exclusive=False), structlog.get_logger())
    await database.open()
    await DeviceSessionStore(database, time.time).add(session)
    await database.close()
    for install, name in ((ANNA, session.name), (BEN, None)):
        opened = await service.open(deep_link=FB_PROMO, install_id=install, test_device=name)
        dub.script = conversions(opened.click_id)
        lead = {"eventName": "Sign up", "customerExternalId": install, "installId": install}
        assert (await service.post("/v1/leads", json=lead)).json()["status"] == "delivered"
        dub.script = None
    events = await backend.has(4)
    assert {(each.type, each.event["data"]["openId"] == opened.open_id) for each in events} == {
        ("open.matched", True),
        ("open.matched", False),
        ("lead.delivered", True),
        ("lead.delivered", False),
    }
    for event in events:
        assert event.event.get("test", False) is (event.event["data"]["openId"] != opened.open_id)


async def test_a_match_that_comes_late_is_reported(world: World, backend: Receiver) -> None:
    """Pending at first: the event comes with the click; open.settled follows open.matched."""
    opened = await world.launch()
    assert opened.pending
    await world.click()
    settled = await world.settled(opened)
    assert settled.click_id is not None
    await eventually(world, backend, 2)
    matched, final = backend.events
    assert [matched.type, final.type] == ["open.matched", "open.settled"]
    for event in (matched, final):
        assert event.event["data"]["openId"] == opened.open_id
        assert event.event["data"]["clickId"] == settled.click_id
        assert event.event["data"]["match"]["type"] == "ip"


async def test_an_organic_open_settles_without_a_click(world: World, backend: Receiver) -> None:
    """No click came: open.settled alone, with null."""
    opened = await world.launch()
    await world.settled(opened)
    await eventually(world, backend, 1)
    assert backend.types() == ["open.settled"]
    data = backend.events[0].event["data"]
    assert (data["clickId"], data["link"], data["match"]["type"]) == (None, None, "none")


async def test_a_pending_open_of_a_process_that_stopped_settles(
    backend: Receiver,
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
) -> None:
    """Nobody decides it any more: after a minute it is final as it is, and that is reported."""
    dub, config = embedded_dub(clock), with_hook(MATCHING)
    async with started_over(dub, clock, config, env_of(backend)) as world:
        opened = await world.launch()
        assert opened.pending
    async with started_over(dub, clock, config, env_of(backend)) as world:
        await eventually(world, backend, 1, step_s=1)
        assert not (await world.service.recall(opened.open_id)).pending
    assert backend.types() == ["open.settled"]
    assert backend.events[0].event["data"]["openId"] == opened.open_id


async def test_an_open_that_dub_answers_late_is_reported(world: World, backend: Receiver) -> None:
    """Degraded while Dub is down, replayed by the outbox: matched and settled."""
    await world.fail("/track/open")
    opened = await world.launch(deep_link=FB_PROMO)
    assert opened.pending
    await world.mend()
    await world.settled(opened)
    await eventually(world, backend, 2)
    assert backend.types() == ["open.matched", "open.settled"]


async def test_stronger_evidence_is_reported(world: World, backend: Receiver) -> None:
    """An IP match is superseded: its open has settled anew, without the click, credited to the other."""
    await world.click()
    guess = await world.launch()
    assert guess.match.type == "ip"
    certain = await world.launch(deep_link="https://acme.link/invite")
    await eventually(world, backend, 3)
    by_open = {(each.type, each.event["data"]["openId"]): each.event["data"] for each in backend.events}
    assert by_open["open.matched", guess.open_id]["clickId"] == guess.click_id
    assert by_open["open.matched", certain.open_id]["clickId"] == certain.click_id
    revised = by_open["open.settled", guess.open_id]
    assert (revised["clickId"], revised["creditedTo"]) == (None, certain.open_id)
    assert revised["match"]["reason"] == "superseded"


def always(status: int) -> Script:
    async def script(_: Received) -> web.StreamResponse:
        return web.Response(status=status)

    return script


def first_refused(backend: Receiver) -> None:
    """Let the backend refuse the first request for each event."""
    seen: set[str] = set()

    async def script(received: Received) -> web.StreamResponse:
        status = 204 if received.id in seen else 503
        seen.add(received.id)
        return web.Response(status=status)

    backend.script = script


def conversions(click_id: str | None) -> Handler:
    """Let Dub record leads and sales of a click."""
    return answer({**LEAD_ANSWER, "click": {"id": click_id}})


async def until_metric(service: Service, line: str) -> None:
    """Wait until a line of /metrics is there."""
    for _ in range(1000):
        if line in (await service.get("/metrics")).text:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"no {line}")


async def eventually(world: World, backend: Receiver, count: int, step_s: float = 0.1) -> None:
    """Let time pass until the backend has so many events."""

    async def there() -> bool:
        return len(backend.events) >= count

    await world.eventually(there, step_s=step_s)
