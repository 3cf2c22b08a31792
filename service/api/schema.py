"""The OpenAPI document: what it is called, whose keys it names, how it groups."""

from dataclasses import dataclass
from typing import Any

from litestar import Response, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    Schema,
    SecurityScheme,
    Tag,
)

from service.api.problems import problem_reply

_NOT_FOUND = 404


_COUNTED = {
    "RateLimit-Limit": "Requests per window, where rate limits are set.",
    "RateLimit-Remaining": "How many are left in this window.",
    "RateLimit-Reset": "Seconds until the window is over.",
}


@dataclass
class CountedOperation(Operation):
    """An operation whose requests are counted where rate limits are set: its answers say how that stands."""

    def __post_init__(self) -> None:
        """Describe the headers."""
        for status, response in (self.responses or {}).items():
            if isinstance(response, OpenAPIResponse) and status in ("200", "429"):
                headers: dict[str, OpenAPIHeader | Reference] = {
                    name: _whole_number(meaning) for name, meaning in _COUNTED.items()
                }
                if status == "429":
                    headers["Retry-After"] = _whole_number("After how many seconds to ask again.")
                response.headers = {**(response.headers or {}), **headers}


@dataclass
class OpenOperation(CountedOperation):
    """An operation that drops the fields it cannot use, and names them in a header."""

    def __post_init__(self) -> None:
        """Describe the headers."""
        super().__post_init__()
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse):
            meaning = (
                "Fields that were given and cannot be used, comma-separated: the open is answered without."
            )
            ignored = OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=meaning)
            answer.headers = {**(answer.headers or {}), "Firstopen-Ignored": ignored}


def _whole_number(meaning: str) -> OpenAPIHeader:
    return OpenAPIHeader(schema=Schema(type=OpenAPIType.INTEGER), description=meaning)


async def _nothing_here(response: Response[Any]) -> Response[Any]:
    """Give the schema's own 404 page the house's error shape."""
    if response.status_code == _NOT_FOUND:
        return problem_reply(404, "there is nothing at this path")
    return response


def openapi(version: str) -> OpenAPIConfig:
    """Describe the document, and serve it and its pages at /schema."""
    return OpenAPIConfig(
        title="firstopen",
        version=version,
        summary="An app was just opened: where should this person land, and which click brought them?",
        openapi_router=Router("/schema", route_handlers=[], after_request=_nothing_here),
        use_handler_docstrings=True,
        tags=[
            Tag("Opens", "What an app asks at its first screen."),
            Tag("Dub's own wire", "For Dub's own SDKs: change their base URL."),
            Tag("Ops", "What an operator asks."),
        ],
        components=Components(
            security_schemes={
                "publishableKey": SecurityScheme(
                    type="http", scheme="bearer", description="One of the app's publishable keys (dub_pk_…)."
                ),
                "serverKey": SecurityScheme(
                    type="http", scheme="bearer", description="One of the app's server keys, for its backend."
                ),
            }
        ),
    )
