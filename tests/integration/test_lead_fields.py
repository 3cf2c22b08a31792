"""Optional fields of a lead: one that Dub would refuse costs the field, and never the lead."""

import json

import httpx
import pytest

from tests.support import FakeDub, Service

# Real addresses of Japanese carriers, padded and international ones: Dub's validator takes none as it stands.
REFUSED = [
    "anna..b@docomo.ne.jp",
    "anna.@ezweb.ne.jp",
    "anna@bücher.example",
    "anna",
    "a" * 100 + "@x.example",
]


def recorded(dub: FakeDub) -> list[dict[str, object]]:
    return [json.loads(each.content) for each in dub.requests if each.url.path == "/track/lead"]


async def lead(service: Service, dub: FakeDub, **fields: object) -> httpx.Response:
    async def accept(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        click = {"id": body["clickId"]}
        return httpx.Response(200, json={"click": click, "link": None, "customer": {"name": None}})

    dub.script = accept
    body = {"eventName": "Sign up", "customerExternalId": "anna", "clickId": "c" * 16, **fields}
    return await service.post("/v1/leads", json=body)


@pytest.mark.parametrize("email", REFUSED)
async def test_an_email_that_dub_would_refuse_is_left_out(service: Service, dub: FakeDub, email: str) -> None:
    """Dub answers 422 for such an address (dub-api.md, POST /track/lead), and the lead would be lost."""
    response = await lead(service, dub, customerEmail=email)
    assert response.status_code in (200, 202), response.text
    assert response.headers["Firstopen-Ignored"] == "customerEmail"
    assert all("customerEmail" not in each for each in recorded(dub))
    assert email not in response.text


@pytest.mark.parametrize(("given", "sent"), [(" anna@acme.com\n", "anna@acme.com"), ("", None), ("  ", None)])
async def test_a_padded_email_is_trimmed(
    service: Service, dub: FakeDub, given: str, sent: str | None
) -> None:
    response = await lead(service, dub, customerEmail=given)
    assert response.status_code in (200, 202), response.text
    assert "Firstopen-Ignored" not in response.headers
    assert {each.get("customerEmail") for each in recorded(dub)} == {sent}


@pytest.mark.parametrize(("characters", "status"), [(4990, 200), (5000, 422)])
async def test_metadata_is_measured_as_javascript_does(
    service: Service, dub: FakeDub, characters: int, status: int
) -> None:
    """10,000 UTF-16 units of JSON (dub-api.md, POST /track/lead): an emoji counts twice."""
    response = await lead(service, dub, metadata={"a": "🎉" * characters})
    assert (response.status_code == 422) == (status == 422), response.text
