"""A bare Litestar handler: it decodes and encodes firstopen's own Structs, and does no more."""

from litestar import Litestar, post
from litestar.params import JSONBody

from service.api.wire import EXAMPLE_ANSWER, OpenRequest
from service.domain.models import Answer


@post("/v1/opens", status_code=200)
async def report_open(data: JSONBody[OpenRequest]) -> Answer:  # noqa: ARG001  decoding it is the point
    """Answer every open alike."""
    return EXAMPLE_ANSWER


def build(_upstream: str) -> Litestar:
    """Build it."""
    return Litestar([report_open], openapi_config=None, logging_config=None)
