"""schemathesis on both targets: whatever fits the schemas, or nearly does, gets an answer that is documented.

The examples are the same in every run and for both targets (derandomized, nothing kept, nothing timed);
known links, clicks and customers are put into many of them, so that not every one ends at the first door.
"""

from collections import Counter
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from service.telemetry import configure_logs
from tests.contract import shapes
from tests.contract.targets import KEY_OF, TARGETS, Target, targeted
from tests.sandbox.support import FakeClock
from tests.support import LogLines

DOCUMENT = openapi.from_dict(shapes.openapi())
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
MODES = {"fitting": GenerationMode.POSITIVE, "misfitting": GenerationMode.NEGATIVE}
HOST = "http://127.0.0.1:8001"
A_CLICK = "a click that there is"
KNOWN = {
    "deepLink": ["https://acme.link/fb-promo", "acme.link/plain?a=b", "https://acme.link/unknown"],
    "dubDomain": ["acme.link", "go.acme.com", "www.acme.link"],
    "clickId": [A_CLICK],
    "customerExternalId": ["anna"],
    "domain": ["acme.link", "go.acme.com,acme.link", "-acme.link"],
}
BOUNDED = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(params=TARGETS)
async def target(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Target]:
    """Return a target of little patience: a sale behind one that Dub does not take yet is queued at once."""
    configure_logs("critical", LogLines())
    async with targeted(request.param, clock, tmp_path, budget_ms=100) as built:
        yield built


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", sorted(KEY_OF))
async def test_documented_answers_only(target: Target, clock: FakeClock, path: str, mode: str) -> None:
    """No 5xx, no undocumented status, no answer of another shape, whatever was sent."""
    click_id = await target.click_id()
    await target.lead(click_id, customerExternalId="anna", mode="deferred")
    statuses: Counter[int] = Counter()
    for case in cases(path.removesuffix("/client"), mode):
        clock.advance(1)
        response = await sent(target, path, case, click_id)
        if response is not None:
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)
    assert statuses[200 if mode == "fitting" else 422] > 0, f"nothing got as far as it should: {statuses}"


@cache
def cases(path: str, mode: str) -> list[Case[Any]]:
    """Generate the examples of a route; a client's route takes what its server's takes."""
    found: list[Case[Any]] = []
    operation = DOCUMENT[path]["GET" if path == "/events" else "POST"]

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=MODES[mode]), choose=st.data())
    def keep(case: Case[Any], choose: st.DataObject) -> None:
        fields = case.body if isinstance(case.body, dict) else case.query
        for name in sorted(KNOWN.keys() & fields.keys()) if choose.draw(st.booleans()) else ():
            fields[name] = choose.draw(st.sampled_from(KNOWN[name]))
        found.append(case)

    keep()
    return found


async def sent(target: Target, path: str, case: Case[Any], click_id: str) -> httpx.Response | None:
    """Send a case as schemathesis would, with the right key; None if no client can send it."""
    wire = case.as_transport_kwargs(base_url=HOST)
    body: dict[str, Any] = {}
    if "json" in wire:
        known = isinstance(wire["json"], dict) and wire["json"].get("clickId") == A_CLICK
        body["json"] = wire["json"] | {"clickId": click_id} if known else wire["json"]
    elif "data" in wire:
        body["content"] = wire["data"]
    headers = {**wire["headers"], "authorization": f"Bearer {KEY_OF[path]}"}
    try:
        return await target.api.request(
            wire["method"], HOST + path, params=wire["params"], headers=headers, **body
        )
    except httpx.InvalidURL:  # a query over 64 KiB
        return None
