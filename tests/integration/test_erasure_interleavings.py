"""An erasure that comes in any moment of an open's life leaves nothing of the install behind.

Each example runs the real service over an embedded Dub, in virtual time. One install after the other launches
the app, and is erased a number of the event loop's turns after one of its calls to Dub has begun or ended.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import msgspec
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from service.app import create_app
from service.config.settings import parse
from service.domain.models import Answer
from service.sandbox import SandboxSettings, create_sandbox
from tests.integration.world import AS_SERVER, IPHONE_BROWSER, LINKS, MATCHING, REFERRER
from tests.support import BEN, ENV, FB_PROMO, Service, running
from tests.virtual_time import run

NOON = 1_785_585_600.0
SETTLED_S = 60  # the last look is 30 s after an open; the outbox has tried a few times
AWAY_S = 3.0  # how long Dub is away where it is

Launch = Literal["link", "link, no time", "referrer", "address", "dub_id", "lead", "lead by open"]


class Plan(msgspec.Struct, frozen=True):
    """What happens, and when the erasure comes: ``turns`` after the ``call``-th call to Dub begins or ends.

    ``call`` 0 is the first launch.
    """

    launches: tuple[Launch, ...]
    call: int
    edge: Literal["begins", "ends"]
    turns: int
    dub_takes_s: float = 0.2
    dub_is_away: bool = False
    clicks: int = 1
    apart_s: float = 0.0


LAUNCHES: dict[str, dict[str, Any]] = {
    "link": {"deepLink": FB_PROMO},
    "link, no time": {"deepLink": "https://acme.link/invite", "budgetMs": 100},
    "referrer": {"installReferrer": REFERRER},
    "address": {},
    "dub_id": {"deepLink": "https://acme.com/product/123?dub_id=d0UtZqE0BZuBPrJS"},
    "lead by open": {"deepLink": FB_PROMO},
}
PLANS = st.builds(
    Plan,
    launches=st.lists(
        st.sampled_from(["link", "link, no time", "referrer", "address", "dub_id", "lead", "lead by open"]),
        min_size=1,
        max_size=3,
    ).map(tuple),
    call=st.integers(0, 6),
    edge=st.sampled_from(["begins", "ends"]),
    turns=st.integers(0, 40),
    dub_takes_s=st.sampled_from([0.0, 0.2, 1.0]),
    dub_is_away=st.booleans(),
    clicks=st.integers(0, 2),
    apart_s=st.sampled_from([0.0, 0.1, 3.0]),
)


class Dub(httpx.AsyncBaseTransport):
    """An embedded Dub that takes its time, is away for a while, and tells when calls begin and end."""

    def __init__(self, clicks_show_after_s: float) -> None:
        sandbox = create_sandbox(
            LINKS,
            api_keys=(ENV["ACME_DUB_API_KEY"],),
            clock=unix_time,
            settings=SandboxSettings(first_opens_unfound=True, events_delay_s=clicks_show_after_s),
        )
        self._inner = httpx.ASGITransport(sandbox)  # type: ignore[arg-type]
        self._takes_s = 0.0
        self._away_until = 0.0
        self._calls = {"begins": 0, "ends": 0}
        self._heard = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/fb-promo":  # a browser
            return await self._inner.handle_async_request(request)
        self._note("begins")
        try:
            await asyncio.sleep(self._takes_s)
            if now() < self._away_until:
                return httpx.Response(503)
            return await self._inner.handle_async_request(request)
        finally:
            self._note("ends")

    def begin(self, takes_s: float, away_s: float) -> None:
        """Count calls from now on, take so long for each, and answer none for a while."""
        self._calls = {"begins": 0, "ends": 0}
        self._takes_s, self._away_until = takes_s, now() + away_s

    async def reaches(self, call: int, edge: str) -> None:
        while self._calls[edge] < call:
            await self._heard.wait()

    def _note(self, edge: str) -> None:
        self._calls[edge] += 1
        self._heard.set()
        self._heard = asyncio.Event()


def now() -> float:
    return asyncio.get_running_loop().time() + 1000


def unix_time() -> float:
    return NOON + now()


@asynccontextmanager
async def served(dub: Dub, folder: str) -> AsyncIterator[Service]:
    env = {**ENV, "FIRSTOPEN_DATA_DIR": folder}
    app = create_app(parse(MATCHING, env), transport=dub, clock=now, unix_time=unix_time)
    async with running(app) as service:
        yield service


class Install:
    """An install: its launches, what they were answered, and its erasure."""

    def __init__(self, service: Service, number: int) -> None:
        self._service = service
        self._id = f"install-{number:04}"
        self.ip = f"203.0.113.{number}"
        self._to_erase = False
        self._erased = False
        self.opens: list[str] = []
        self.leads: list[str] = []

    async def launch(self, kind: Launch, after_s: float) -> None:
        """Launch in one way after a while, unless the install is to be erased by then."""
        await asyncio.sleep(after_s)
        if self._to_erase:
            return
        if kind == "lead":
            await self._report_lead({"installId": self._id})
            return
        reply = await self._service.post(
            "/v1/opens",
            json={"installId": self._id, "platform": "ios", **LAUNCHES[kind]},
            headers={"X-Forwarded-For": self.ip},
        )
        erased = self._erased
        assert reply.status_code == 200, reply.text
        answer = msgspec.json.decode(reply.content, type=Answer)
        assert answer.route.screen
        if erased:
            assert answer.click_id is None, "an erased install is answered with its click"
        self.opens.append(answer.open_id)
        if kind == "lead by open":
            await self._report_lead({"openId": answer.open_id})

    async def _report_lead(self, subject: dict[str, str]) -> None:
        body = {"eventName": "Sign up", "customerExternalId": str(subject), **subject}
        reply = await self._service.post("/v1/leads", json=body)
        assert reply.status_code in (200, 202, 404), reply.text
        if reply.status_code != 404 and reply.json()["leadId"] is not None:
            self.leads.append(reply.json()["leadId"])

    async def erase(self) -> dict[str, int]:
        """Erase the install; return how much was removed."""
        self._to_erase = True
        reply = await self._service.post(
            "/v1/installs/forget", json={"installId": self._id}, headers=AS_SERVER
        )
        assert reply.status_code == 200, reply.text
        self._erased = True
        removed: dict[str, int] = reply.json()
        return removed

    async def launch_again(self, service: Service) -> None:
        """Assert that nothing is left of the install, and that its id is another install's now."""
        self._service = service
        note(f"{self.ip} is looked at again")
        for open_id in self.opens:
            assert (await service.get(f"/v1/opens/{open_id}")).status_code == 404
        for lead_id in self.leads:
            assert (await service.get(f"/v1/leads/{lead_id}")).status_code == 404
        assert await self.erase() == {"answers": 0, "claims": 0, "outbox": 0, "touches": 0}
        await asyncio.sleep(1)
        again = await service.open(FB_PROMO, install_id=self._id)
        assert again.open_id not in self.opens
        assert not again.repeat
        assert (await service.recall(again.open_id)).open_id == again.open_id


async def play(plan: Plan, dub: Dub, install: Install) -> None:
    """Let an install launch and be erased as planned."""
    for number in range(plan.clicks):
        browser = {"Host": "acme.link", "X-Real-IP": install.ip, "User-Agent": f"{IPHONE_BROWSER} {number}"}
        await dub.handle_async_request(httpx.Request("GET", "http://acme.link/fb-promo", headers=browser))
    await asyncio.sleep(1)
    dub.begin(plan.dub_takes_s, AWAY_S if plan.dub_is_away else 0)
    launches = [
        asyncio.create_task(install.launch(kind, number * plan.apart_s))
        for number, kind in enumerate(plan.launches)
    ]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLED_S):
            if plan.call:
                await dub.reaches(plan.call, plan.edge)
            elif plan.edge == "ends":
                await launches[0]
    for _ in range(plan.turns):
        await asyncio.sleep(0)
    await install.erase()
    await asyncio.gather(*launches)
    await asyncio.sleep(SETTLED_S)


async def play_all(plans: Sequence[Plan], clicks_show_after_s: float, folder: str) -> None:
    dub = Dub(clicks_show_after_s)
    async with served(dub, folder) as service:
        kept = await service.open(FB_PROMO, install_id=BEN)
        installs = [Install(service, number) for number in range(len(plans))]
        for plan, install in zip(plans, installs, strict=True):
            note(f"{install.ip} is played")
            await play(plan, dub, install)
        assert (await service.recall(kept.open_id)).click_id == kept.click_id
        for install in installs[::2]:
            await install.launch_again(service)
    async with served(dub, folder) as service:
        for install in installs[1::2]:
            await install.launch_again(service)
        assert (await service.recall(kept.open_id)).click_id == kept.click_id


# An example takes half a second: one that fails is reported as it is.
@settings(max_examples=10, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(
    plans=st.lists(PLANS, min_size=10, max_size=10),
    clicks_show_after_s=st.sampled_from([0.0, 5.0]),
    thread_turns=st.integers(0, 6),
)
def test_an_erased_install_stays_erased(
    plans: list[Plan], clicks_show_after_s: float, thread_turns: int
) -> None:
    """Nothing of it is stored, also after a restart; no later answer has its click; its id is a new one."""
    with tempfile.TemporaryDirectory() as folder:
        run(play_all(plans, clicks_show_after_s, folder), thread_turns=thread_turns)
