"""What went through us is nowhere in the clear: not in the data directory, not in the logs."""

import base64
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.storage.engines.sqlite import FILE
from tests.durability.processes import AS_APP, AS_SERVER, FB_PROMO, Killable, beside_a_sandbox
from tests.support import KEY, SERVER_KEY

IP = "203.0.113.77"
IPV6 = "2001:db8::beef:77"
USER_AGENT = "AnnasOwnPhone/7 CFNetwork/1568 Darwin/24.0.0"
INSTALL = "install-of-anna-77"
CUSTOMER = "customer-anna-77"
PRIVATE = {
    "an e-mail address": "anna.private@example.com",
    "an e-mail in a link": "ben.private@example.com",
    "a name": "Anna Privatissima",
    "an IPv4 address": IP,
    "an IPv6 address": IPV6,
    "an install": INSTALL,
    "a customer": CUSTOMER,
    "a User-Agent": "AnnasOwnPhone",
    "clipboard text": "swordfish-on-the-clipboard",
    "clipboard text through an SDK": "hunter2-through-an-sdk",
    "a link of their own website": "reset-token-4711",
    "a query": "personal-invite-0815",
    "metadata": "blood-type-ab",
    "the publishable key": KEY,
    "the server key": SERVER_KEY,
    "the Dub API key": "dub_secret_of_acme",
}
PHONE = {**AS_APP, "User-Agent": USER_AGENT, "X-Forwarded-For": IP}


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, bytes], str]]:
    """Send everything through a service whose Dub is away, then well; return its files and its log."""
    folder = tmp_path_factory.mktemp("secrets")
    with beside_a_sandbox(folder, FIRSTOPEN_LOG_LEVEL="debug") as (service, sandbox):
        files: dict[str, bytes] = {}
        for state in ("well", "away"):
            if state == "away":
                sandbox.fault(route="/track/*", status=500)
            talk(service, state)
            service.kill()  # so that the write-ahead log is still there
            files |= {f"{path.name}, {state}": path.read_bytes() for path in service.data.iterdir()}
            service.start()
            service.ready()
        sandbox.clear()
        service.stop()
        files |= {f"{path.name}, stopped": path.read_bytes() for path in service.data.iterdir()}
        logs = [line for line in service.logs().splitlines() if line.startswith("{")]
        yield files, "\n".join(logs)  # without the greeting, which shows a curl with the app's own key


def talk(service: Killable, state: str) -> None:
    """Report opens and leads with something of a person in every field."""
    with httpx.Client(base_url=service.url, timeout=20) as http:

        def report(path: str, headers: dict[str, str], **body: Any) -> dict[str, Any]:
            reply = http.post(path, json=body, headers=headers)
            assert reply.status_code in (200, 202, 404), reply.text
            answer: dict[str, Any] = reply.json()
            return answer

        opened = report(
            "/v1/opens",
            PHONE,
            deepLink=f"{FB_PROMO}?to={PRIVATE['a query']}&mail={PRIVATE['an e-mail in a link']}&n={state}",
            installId=INSTALL,
            clipboard=f"https://acme.link/{PRIVATE['clipboard text']}",
            installReferrer=f"deepLink=https%3A%2F%2Facme.link%2F{PRIVATE['clipboard text']}",
        )
        report("/v1/opens", PHONE, deepLink=FB_PROMO, installId="install-of-ben")
        own = f"https://acme.com/reset?token={PRIVATE['a link of their own website']}"
        report("/v1/opens", {**PHONE, "X-Forwarded-For": IPV6}, deepLink=own, installId=INSTALL)
        sdk = f"https://acme.link/{PRIVATE['clipboard text through an SDK']}"
        report("/track/open", PHONE, deepLink=sdk, dubDomain="acme.link")
        person = {
            "eventName": "Sign up",
            "customerExternalId": CUSTOMER + state,
            "customerEmail": PRIVATE["an e-mail address"],
            "customerName": PRIVATE["a name"],
            "metadata": {"x": PRIVATE["metadata"]},
        }
        report("/v1/leads", PHONE, **person, openId=opened["openId"])
        report("/v1/leads", PHONE, **person, installId=INSTALL)
        report("/v1/leads", PHONE, **person, clickId="nobodysclick0000")
        report("/track/lead", {**PHONE, **AS_SERVER}, **person, clickId="nobodysclick0001")
        del person["eventName"]
        report("/track/sale", {**PHONE, **AS_SERVER}, **person, amount=500)
        http.get("/v1/opens/nobodys", headers=PHONE)
        http.post("/v1/leads", json={"customerEmail": PRIVATE["an e-mail address"]}, headers=PHONE)


def forms(text: str) -> Iterator[bytes]:
    """Write a text as it could have got into a file."""
    yield text.encode()
    yield text.encode("utf-16-le")
    yield urllib.parse.quote(text, safe="").encode()
    yield text.encode().hex().encode()
    for shift in range(3):
        yield base64.b64encode(b"\0" * shift + text.encode())[4 : -4 or None]


def test_the_files_are_those_that_were_written(left_behind: tuple[dict[str, bytes], str]) -> None:
    """The database and its write-ahead log are among them, with opens, queued leads and delivered ones."""
    files, _ = left_behind
    assert f"{FILE}, away" in files
    assert f"{FILE}-wal, away" in files
    everything = b"".join(files.values())
    for known in (b"acme", b"queued", b"lead", b"sale", b"fb-promo"):
        assert known in everything


@pytest.mark.parametrize("what", PRIVATE)
def test_nothing_of_a_person_is_on_disk(left_behind: tuple[dict[str, bytes], str], what: str) -> None:
    """Not as it is, nor percent-encoded, in hex or in base64; not in what was delivered, queued or dead."""
    files, _ = left_behind
    assert [
        name for name, found in files.items() if any(form in found for form in forms(PRIVATE[what]))
    ] == []


@pytest.mark.parametrize("what", PRIVATE)
def test_nothing_of_a_person_is_in_the_logs(left_behind: tuple[dict[str, bytes], str], what: str) -> None:
    """At the most talkative level."""
    _, logs = left_behind
    assert "open.degraded" in logs
    assert not [
        line for line in logs.splitlines() if any(form in line.encode() for form in forms(PRIVATE[what]))
    ]


def test_the_search_would_find_it(tmp_path: Path) -> None:
    """Each form of a text is found where it is."""
    text = PRIVATE["an e-mail address"]
    for form in forms(text):
        path = tmp_path / "found"
        path.write_bytes(b"before" + form + b"after")
        assert any(each in path.read_bytes() for each in forms(text))
    sealed_not = base64.b64encode(f'{{"customerEmail": "{text}"}}'.encode())
    assert any(form in sealed_not for form in forms(text))
