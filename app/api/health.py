"""Is it alive, is it ready, how is it doing: for load balancers and for Prometheus."""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app.api import documentation as doc
from app.api.schemas import Liveness, Readiness
from app.metrics import CONTENT_TYPE
from app.service import Service

_NO_STORE = {"Cache-Control": "no-store"}


def health_router(
    service: Service,
    start_models: Sequence[str],
    is_draining: Callable[[], bool],
    scrape: Callable[[], Awaitable[str]],
) -> APIRouter:
    """The routes of health and metrics.

    Args:
        service: knows which models are served.
        start_models: without each of these the service is not ready.
        is_draining: whether it is about to end.
        scrape: fetches the metrics page.
    """
    router = APIRouter()

    @router.get("/livez", response_model=Liveness, openapi_extra=doc.OPEN)
    async def livez() -> Response:
        """The event loop turns; says nothing of models."""
        return JSONResponse({"status": "alive"}, headers=_NO_STORE)

    @router.get(
        "/readyz",
        response_model=Readiness,
        responses={503: {"model": Readiness}},
        openapi_extra=doc.OPEN,
    )
    async def readyz() -> Response:
        """A warm worker serves every start-up model, and the service is not ending."""
        missing = service.models().missing(start_models)
        if is_draining():
            return JSONResponse({"status": "draining"}, 503, _NO_STORE)
        if missing:
            return JSONResponse({"status": "not ready", "missing": missing}, 503, _NO_STORE)
        return JSONResponse({"status": "ready"}, headers=_NO_STORE)

    @router.get("/metrics", response_class=PlainTextResponse, responses=doc.errors(401))
    async def metrics() -> Response:
        """Prometheus' text format, for all processes together."""
        return Response(await scrape(), headers=_NO_STORE, media_type=CONTENT_TYPE)

    return router
