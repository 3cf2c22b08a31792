"""Phones, web pages and backends that ask when they want to, whether or not the last one was answered."""

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp import web
from msgspec import Struct

from tests.bench import sample
from tests.receiver import Received, Receiver, Script
from tests.replicas.processes import IPHONE, SAFARI

PER_S = 30
LEADS_AGAIN_S = 2.0  # after which a backend reports a lead again that was refused

_PROMO, _INVITE = "https://acme.link/fb-promo", "https://acme.link/invite"
_REFERRER = "utm_source=x&deepLink=https%3A%2F%2Facme.link%2Ffb-promo%3Fskip_deeplink_preview%3D1"
_APP = {**sample.HEADERS, "User-Agent": IPHONE}  # of the same iOS as the browser: else no click fits
_BACKEND = {"Authorization": f"Bearer {sample.SERVER_KEY}"}
_TIMEOUT_S = 20.0
_KNOWN = 2000  # opens that are repeated, or that leads are reported for
_STORE_S = 5.0  # from a click to the first open, at most
_STORED_AFTER_S = 1.0  # what is older is known to both replicas


class Asked(Struct, frozen=True):
    """One answered request, or one that got no answer (``status`` 0). Times are monotonic seconds."""

    kind: str  # open (of a link), first (an open without one), lead, or other
    status: int
    answer: str  # that is no success
    due: float
    took_s: float


class Opened(Struct, frozen=True):
    """An open that has a click."""

    body: dict[str, Any]
    address: str
    click_id: str
    open_id: str
    at: float


class Ledger:
    """What was asked, and what must have come of it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: Counter[str] = Counter()  # of opens: by match type, and "repeat" and "pending"
        self.leads: dict[str, str] = {}  # the install of each acknowledged lead, by customer
        self.lead_ids: set[str] = set()
        self.installs: dict[str, str] = {}  # by openId
        self.clicks: defaultdict[str, set[str]] = defaultdict(set)  # the installs that were given each click
        self.changed: list[str] = []  # opens whose repeat got another click
        self.pending: set[str] = set()  # openIds


class Traffic:
    """Sends ``PER_S`` requests a second to ``base``; clicks are made at ``dub``."""

    def __init__(self, base: str, dub: str, ledger: Ledger, seed: int) -> None:
        self._base = base
        self._dub = dub
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._known: deque[Opened] = deque(maxlen=_KNOWN)
        self._numbers = 0
        self._http: aiohttp.ClientSession
        self._kinds: dict[Callable[[], Coroutine[None, None, None]], int] = {
            self._first: 30,
            self._repeat: 25,
            self._deep_link: 12,
            self._compatible_open: 5,
            self._after_a_click: 3,
            self._after_a_touch: 3,
            self._lead: 12,
            self._compatible_lead: 6,
        }

    async def run(self, over: asyncio.Event) -> None:
        """Ask until ``over`` is set, then wait until all is answered."""
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        kinds, weights = list(self._kinds), list(self._kinds.values())
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_TIMEOUT_S)
            ) as self._http,
            asyncio.TaskGroup() as group,
        ):
            for number in itertools.count():
                await asyncio.sleep(began + number / PER_S - loop.time())
                if over.is_set():
                    return
                (kind,) = self._chance.choices(kinds, weights)
                group.create_task(kind())

    async def _first(self) -> None:
        """Open the app for the first time, by the store's referrer or by a link."""
        by = {"installReferrer": _REFERRER} if self._chance.random() < 0.5 else {"deepLink": _PROMO}
        await self._open({**by, "installId": f"install-{self._next()}"}, self._address())

    async def _repeat(self) -> None:
        known = self._one_known()
        if known is None:
            return await self._first()
        click_id = await self._open(known.body, known.address)
        if click_id is not None and click_id != known.click_id:
            self._ledger.changed.append(known.open_id)
        return None

    async def _deep_link(self) -> None:
        """Let an install that is known open another link, each time with another query."""
        known = self._one_known()
        if known is None:
            return await self._first()
        body = {"deepLink": f"{_INVITE}?n={self._next()}", "installId": known.body["installId"]}
        await self._open(body, known.address)
        return None

    async def _after_a_click(self) -> None:
        """Click a link in a browser, and open the app for the first time on the same network."""
        address = self._address()
        headers = {"Host": "acme.link", "X-Real-IP": address, "User-Agent": SAFARI}
        async with self._http.get(f"{self._dub}/fb-promo", headers=headers, allow_redirects=False) as reply:
            await reply.read()
        await asyncio.sleep(self._chance.uniform(2, _STORE_S))
        await self._open({"dubDomain": "acme.link", "installId": f"install-{self._next()}"}, address)

    async def _after_a_touch(self) -> None:
        """Visit a web page, and open the app for the first time on the same network."""
        address = self._address()
        headers = {**_APP, "X-Forwarded-For": address, "User-Agent": SAFARI}
        status, _ = await self._ask("other", "/v1/touches", {"url": _PROMO}, headers)
        if status != 200:
            return
        await asyncio.sleep(self._chance.uniform(2, _STORE_S))
        await self._open({"dubDomain": "acme.link", "installId": f"install-{self._next()}"}, address)

    async def _compatible_open(self) -> None:
        """Open a link as Dub's own SDKs do, which know of no install."""
        address = self._address()
        headers = {**_APP, "X-Forwarded-For": address}
        status, answer = await self._ask("open", "/track/open", {"deepLink": _PROMO}, headers)
        if status == 200 and answer["clickId"] is not None:
            self._ledger.clicks[answer["clickId"]].add(address)

    async def _lead(self) -> None:
        known = self._one_known()
        if known is None:
            return await self._first()
        subjects = (
            {"openId": known.open_id},
            {"clickId": known.click_id},
            {"installId": known.body["installId"]},
        )
        await self._report_lead("/v1/leads", self._chance.choice(subjects), known)
        return None

    async def _compatible_lead(self) -> None:
        known = self._one_known()
        if known is None:
            return await self._first()
        await self._report_lead("/track/lead", {"clickId": known.click_id}, known)
        return None

    async def _report_lead(self, path: str, subject: dict[str, str], of: Opened) -> None:
        """Report a lead as a backend should: again while it is refused, and one in ten after that as well."""
        customer = f"customer-{self._next()}"
        body = {"eventName": "Sign up", "customerExternalId": customer, **subject}
        acknowledged = 0
        wanted = 1 + (self._chance.random() < 0.1)
        while acknowledged < wanted:
            status, answer = await self._ask("lead", path, body, _BACKEND)
            if status in (200, 202):
                acknowledged += 1
                self._ledger.leads[customer] = of.body["installId"]
                if "leadId" in answer:
                    self._ledger.lead_ids.add(answer["leadId"])
            elif status == 503:
                await asyncio.sleep(LEADS_AGAIN_S)
            else:
                return

    async def _open(self, body: dict[str, Any], address: str) -> str | None:
        """Report an open; if it stays pending, ask again when the answer says so. Returns its click."""
        headers = {**_APP, "X-Forwarded-For": address}
        kind = "first" if "dubDomain" in body else "open"
        status, answer = await self._ask(kind, "/v1/opens", body, headers)
        if status != 200:
            return None
        self._ledger.answers[answer["match"]["type"]] += 1
        self._ledger.answers["repeat"] += answer["repeat"]
        self._ledger.installs[answer["openId"]] = body["installId"]
        if answer["pending"]:
            self._ledger.answers["pending"] += 1
            self._ledger.pending.add(answer["openId"])
            await asyncio.sleep(answer["retryAfterMs"] / 1000)
            status, answer = await self._ask("other", f"/v1/opens/{answer['openId']}", None, headers)
            if status != 200:
                return None
        click_id: str | None = answer["clickId"]
        if click_id is not None:
            self._ledger.clicks[click_id].add(body["installId"])
            self._known.append(Opened(body, address, click_id, answer["openId"], time.monotonic()))
        return click_id

    async def _ask(
        self, kind: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> tuple[int, Any]:
        due = time.monotonic()
        answer, said = None, ""
        try:
            async with self._http.request(
                "GET" if body is None else "POST", f"{self._base}{path}", json=body, headers=headers
            ) as reply:
                status = reply.status
                if status in (200, 202):
                    answer = await reply.json()
                else:
                    said = f"{path if body else '/v1/opens/…'}: {status} {await reply.text()}"
        except (aiohttp.ClientError, TimeoutError) as exc:
            status, said = 0, f"{path}: {type(exc).__name__}"
        self._ledger.asked.append(Asked(kind, status, said, due, time.monotonic() - due))
        return status, answer

    def _one_known(self) -> Opened | None:
        """Return an open that has been stored by now, if there is one."""
        before = time.monotonic() - _STORED_AFTER_S
        return self._chance.choice([each for each in self._known if each.at < before] or [None])

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _address(self) -> str:
        """Return an address that nobody had before."""
        number = self._next()
        return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def backend(receiver: Receiver, seed: int) -> Script:
    """Verify each webhook; refuse one in fifty, and lose the answer to one in a hundred that was taken.

    What is not signed is refused, and so will be missing in the end.
    """
    chance = random.Random(seed)

    async def script(received: Received) -> web.StreamResponse:
        received.verify()
        dice = chance.random()
        if dice < 0.02:
            return web.Response(status=500)
        if dice < 0.03:
            receiver.taken.append(received)
            raise ConnectionResetError
        return web.Response(status=204)

    return script
