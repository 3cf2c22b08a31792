"""The OpenAPI document: what it is called, whose keys it names, how it groups."""

from typing import Any

from litestar import Response, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Tag

from service.api.problems import problem_reply

_NOT_FOUND = 404


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
