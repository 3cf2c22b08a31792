"""The OpenAPI document: its title, tags, security schemes, and common response headers."""

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
    "RateLimit-Limit": "Requests per window, if rate limits are set.",
    "RateLimit-Remaining": "Requests left in this window.",
    "RateLimit-Reset": "Seconds until the window ends.",
}


@dataclass
class CountedOperation(Operation):
    """An operation with rate limits: its responses have RateLimit-* headers if limits are set."""

    def __post_init__(self) -> None:
        """Describe the headers."""
        for status, response in (self.responses or {}).items():
            if isinstance(response, OpenAPIResponse) and status in ("200", "429"):
                headers: dict[str, OpenAPIHeader | Reference] = {
                    name: _whole_number(meaning) for name, meaning in _COUNTED.items()
                }
                if status == "429":
                    headers["Retry-After"] = _whole_number("Seconds to wait before the next request.")
                response.headers = {**(response.headers or {}), **headers}


@dataclass
class OpenOperation(CountedOperation):
    """An operation that ignores unusable fields, and names them in a response header."""

    def __post_init__(self) -> None:
        """Describe the headers."""
        super().__post_init__()
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse):
            meaning = "Fields that cannot be used, comma-separated; the open is answered without them."
            ignored = OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=meaning)
            answer.headers = {**(answer.headers or {}), "Firstopen-Ignored": ignored}


def _whole_number(meaning: str) -> OpenAPIHeader:
    return OpenAPIHeader(schema=Schema(type=OpenAPIType.INTEGER), description=meaning)


async def _replace_not_found(response: Response[Any]) -> Response[Any]:
    """Replace the 404 page of Litestar's schema router by an error in Dub's format."""
    if response.status_code == _NOT_FOUND:
        return problem_reply(404, "this path does not exist")
    return response


def openapi(version: str) -> OpenAPIConfig:
    """Return the configuration of the OpenAPI document, which is served at /schema."""
    return OpenAPIConfig(
        title="firstopen",
        version=version,
        summary="An app was just opened: where should this person land, and which click brought them?",
        openapi_router=Router(
            "/schema", route_handlers=[], after_request=_replace_not_found, include_in_schema=False
        ),
        use_handler_docstrings=True,
        tags=[
            Tag("Opens", "What an app sends when it is opened."),
            Tag("Leads", "Sign-ups and other conversions, credited to the click of an install."),
            Tag("Dub-compatible API", "For Dub's own SDKs: change their base URL."),
            Tag("Ops", "Health and metrics, for operators."),
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
