"""Web pages (Capacitor, Ionic, Expo web) may call /v1 and Dub's wire, and read answers and errors."""

import pytest

from tests.support import FB_PROMO, Service

ORIGIN = {"Origin": "capacitor://localhost"}
PREFLIGHT = {
    **ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
    "Authorization": "",
}
OURS = [
    "/v1/opens",
    "/v1/opens/0123",
    "/v1/opens/0123/trace",
    "/v1/opens/dry-run",
    "/v1/leads",
    "/v1/leads/0123",
]
DUBS = ["/track/open", "/track/lead", "/track/lead/client", "/track/sale", "/track/sale/client"]


@pytest.mark.parametrize("path", [*OURS, "/v1/installs/forget", *DUBS, "/events"])
async def test_a_preflight_needs_no_key(service: Service, path: str) -> None:
    """OPTIONS is 204 without a body, lets any origin send a key, and is remembered for a day."""
    reply = await service.options(path, headers=PREFLIGHT)
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert {"Content-Type", "Authorization"} <= {*reply.headers["access-control-allow-headers"].split(", ")}
    assert "OPTIONS" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-credentials" not in reply.headers


async def test_a_page_can_read_answers_and_errors(service: Service) -> None:
    """Each status carries the headers once, and says which of our headers a script may read."""
    replies = [
        await service.report({"deepLink": FB_PROMO}, **ORIGIN),
        await service.report(b"{", **ORIGIN),
        await service.report({"deepLink": FB_PROMO}, Authorization="", **ORIGIN),
        await service.report({"dubDomain": "globex.link"}, **ORIGIN),
        await service.get("/v1/nowhere", headers=ORIGIN),
        await service.delete("/v1/opens", headers=ORIGIN),
        await service.report(b" " * 70_000, **ORIGIN),
    ]
    assert [reply.status_code for reply in replies] == [200, 400, 401, 403, 404, 405, 413]
    for reply in replies:
        assert reply.headers.get_list("access-control-allow-origin") == ["*"]
        assert {"Firstopen-Ignored", "Retry-After"} <= {
            *reply.headers["access-control-expose-headers"].split(", ")
        }


@pytest.mark.parametrize("path", ["/health/live", "/metrics", "/schema/openapi.json", "/nowhere"])
async def test_what_is_not_for_web_pages_has_no_cors_headers(service: Service, path: str) -> None:
    """Health, metrics and the schema are an operator's."""
    reply = await service.get(path, headers=ORIGIN)
    assert not [name for name in reply.headers if name.startswith("access-control")]
