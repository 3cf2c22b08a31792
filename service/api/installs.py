"""``/v1/installs``: erase an install."""

from typing import Annotated

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Struct

from service.api.auth import Callers
from service.api.http import LeanRequest, strict_body
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.api.wire import required_install_id
from service.attribution.erasure import ErasedCounts, InstallErasure


class ForgetRequest(Struct, frozen=True, rename="camel"):
    """The install to erase."""

    install_id: Annotated[str, Meta(min_length=8, max_length=128, description="As the app reports it.")]


def installs_routes(callers: Callers, install_erasure: InstallErasure) -> list[HTTPRouteHandler]:
    """Build the handlers of ``/v1/installs``."""

    @post(
        "/v1/installs/forget",
        status_code=200,
        before_request=callers.server,
        dto=strict_body(ForgetRequest),
        return_dto=None,
        operation_class=CountedOperation,
        operation_id="forgetInstall",
        summary="Forget an install",
        security=[{"serverKey": []}],
        responses=documented(400, 401, 403, 413, 415, 422, 429, 503),
        tags=["Opens"],
    )
    async def forget_install(request: LeanRequest, data: JSONBody[ForgetRequest]) -> ErasedCounts:
        """Erase an install's answers, claims and outbox entries, and return how many were deleted."""
        return await install_erasure.forget(request.caller.app, required_install_id(data.install_id))

    return [forget_install]
