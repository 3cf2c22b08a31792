"""touch.js in a real browser: from the sandbox's link to a page with the script, and to a first open."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.integration.world import HOME, IPHONE_BROWSER
from tests.process import free_ports, started
from tests.support import ENV

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

ELSEWHERE = "203.0.113.77"
HOP_BY_HOP = {"content-length", "connection", "date", "server", "transfer-encoding"}
CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
domains = ["acme.localhost"]
default_screen = "home"

[[apps.acme.routes]]
pattern = "PAGE/get-app"
screen = "welcome"
"""
PAGE = """<!doctype html><title>Get the app</title>
<button id="copy">Get the app</button><p id="done"></p>
<script defer src="{service}/v1/touch.js" data-key="dub_pk_acme" data-link="{link}" {more}></script>
<script>
document.getElementById("copy").onclick = () =>
  firstopen.copy().then(() => document.getElementById("done").textContent = "copied");
</script>
"""


class PageHandler(BaseHTTPRequestHandler):
    """Answers with pages, by path."""

    pages: Mapping[str, str]

    def do_GET(self) -> None:
        """Send the page."""
        page = self.pages.get(urlsplit(self.path).path, "")  # browsers also ask for an icon
        self.answer(200, {"Content-Type": "text/html"}, page.encode())

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class ProxyHandler(PageHandler):
    """Passes requests to the service, as a reverse proxy does: with the address of the phone."""

    to: str
    phone: str

    def do_GET(self) -> None:
        """Pass the request on."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {**dict(self.headers), "X-Forwarded-For": self.phone}
        reply = httpx.request(self.command, f"{self.to}{self.path}", headers=headers, content=body)
        kept = {name: value for name, value in reply.headers.items() if name not in HOP_BY_HOP}
        self.answer(reply.status_code, kept, reply.content)

    def do_POST(self) -> None:
        """Pass the request on."""
        self.do_GET()

    def do_OPTIONS(self) -> None:
        """Pass the request on."""
        self.do_GET()


@contextmanager
def serving(handler: type[PageHandler], **values: object) -> Iterator[str]:
    """Run a server with this handler; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), values))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class World(NamedTuple):
    """Where the service is, for a phone at home, and the short link to each page."""

    service: str
    links: Mapping[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run the service, a sandbox and the pages. Who visits the others than ``get-app`` is not at home."""
    folder = Path(tmp_path_factory.mktemp("touches"))
    port, sandbox_port = free_ports(), free_ports()
    to = f"http://127.0.0.1:{port}"
    links = {name: f"http://acme.localhost:{sandbox_port}/{name}" for name in ("get-app", "copy", "ask")}
    pages: dict[str, str] = {}
    with (
        serving(ProxyHandler, to=to, phone=HOME) as home,
        serving(ProxyHandler, to=to, phone=ELSEWHERE) as elsewhere,
        serving(PageHandler, pages=pages) as site,
    ):
        for name, service, more in (
            ("get-app", home, ""),
            ("copy", elsewhere, ""),
            ("ask", elsewhere, 'data-consent="ask" data-signals'),
        ):
            pages[f"/{name}"] = PAGE.format(service=service, link=links[name], more=more)
        (folder / "firstopen.toml").write_text(CONFIG.replace("PAGE", site))
        (folder / "links.toml").write_text(
            "".join(
                f'[[links]]\ndomain = "acme.localhost"\nkey = "{name}"\nurl = "{site}/{name}"\n'
                for name in links
            )
        )
        env = {
            "FIRSTOPEN_CONFIG": "firstopen.toml",
            "FIRSTOPEN_PORT": str(port),
            "FIRSTOPEN_SECRET": ENV["FIRSTOPEN_SECRET"],
            "DUB_BASE_URL": f"http://127.0.0.1:{sandbox_port}",
        }
        sandbox = ("sandbox", "--no-demo", "--port", str(sandbox_port), "--links", "links.toml")
        with started(*sandbox, env={}, cwd=folder) as dub, started("serve", env=env, cwd=folder) as process:
            dub.until("Try it")
            process.ready(port)
            yield World(home, links)


async def visited(page: Page, link: str, complaints: list[str]) -> None:
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(link)


async def first_open(service: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.post(
            f"{service}/v1/opens",
            json={"installId": "install-anna", "platform": "ios"},
            headers={"Authorization": "Bearer dub_pk_acme"},
        )


async def test_a_visit_of_a_page_decides_the_first_open(world: World, browser: Browser) -> None:
    """A phone follows the link to a page with the script; the app's first answer has the link."""
    complaints: list[str] = []
    async with await browser.new_context(user_agent=IPHONE_BROWSER) as phone:
        page = await phone.new_page()
        async with page.expect_response("**/v1/touches") as sent:
            await visited(page, world.links["get-app"], complaints)
        assert (await sent.value).status == 200  # the body of a request with keepalive cannot be read
    answer = (await first_open(world.service)).json()
    assert complaints == []
    assert answer["match"]["type"] == "touch"
    assert answer["route"]["screen"] == "welcome"
    assert answer["clickId"]
    assert answer["pending"] is False


async def test_the_button_copies_the_short_link(world: World, browser: Browser) -> None:
    complaints: list[str] = []
    async with await browser.new_context(permissions=["clipboard-read", "clipboard-write"]) as phone:
        page = await phone.new_page()
        await visited(page, world.links["copy"], complaints)
        await page.click("#copy")
        await page.get_by_text("copied").wait_for()
        assert await page.evaluate("navigator.clipboard.readText()") == world.links["copy"]
    assert complaints == []


async def test_nothing_is_sent_before_consent(world: World, browser: Browser) -> None:
    """``data-consent="ask"``: the page calls ``firstopen.touch(true)`` once the visitor agrees."""
    complaints: list[str] = []
    sent: list[str] = []
    async with await browser.new_context(user_agent=IPHONE_BROWSER) as phone:
        page = await phone.new_page()
        page.on("request", lambda request: sent.append(request.url))
        await visited(page, world.links["ask"], complaints)
        await page.wait_for_load_state("networkidle")
        assert not [url for url in sent if "touches" in url]
        async with page.expect_request("**/v1/touches") as asked:
            await page.evaluate("firstopen.touch(true)")
        body = (await asked.value).post_data_json
        assert body is not None
    assert complaints == []
    assert body["consent"] is True
    assert set(body) >= {"url", "language", "timezone", "screen"}
