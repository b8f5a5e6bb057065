"""Models at run time, as Triton's extension of the Open Inference Protocol has it.

``/v2/repository``: for the operator alone, who brings ``APP_ADMIN_TOKEN``.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.keys import KeyRing
from app.errors import BadRequest, Forbidden, Unauthorized
from app.service import Service
from app.types import Action, ModelInfo

Manage = Callable[[Action, str], Awaitable[None]]

_STATES = {
    "ready": "READY",
    "loading": "LOADING",
    "failed": "UNAVAILABLE",
    "unloaded": "UNAVAILABLE",
}


def repository_router(service: Service, token: str | None, manage: Manage) -> APIRouter:
    """The routes.

    Args:
        service: knows the models and their states.
        token: what a request must bring; None: nobody may use these routes.
        manage: loads or unloads a model in all workers, and returns when that is done.
    """
    ring = KeyRing([token] if token else [])

    async def check_token(request: Request) -> None:
        if not ring:
            raise Forbidden(
                "Nobody may load models: the server was started without APP_ADMIN_TOKEN."
            )
        if not ring.opens(request.headers):
            raise Unauthorized(
                "Send APP_ADMIN_TOKEN as 'Authorization: Bearer …' or 'X-API-Key: …'."
            )

    router = APIRouter(
        prefix="/v2/repository", dependencies=[Depends(check_token)], include_in_schema=False
    )

    @router.post("/index")
    async def repository_index(request: Request) -> Response:
        only_ready = _wants_ready(await request.body())
        entries = [_entry(model) for model in service.models()]
        return JSONResponse([e for e in entries if e["state"] == "READY" or not only_ready])

    @router.post("/models/{name}/load")
    async def load_model(name: str) -> Response:
        await manage("load", name)
        return JSONResponse({"name": name, "load": True})

    @router.post("/models/{name}/unload")
    async def unload_model(name: str) -> Response:
        await manage("unload", name)
        return JSONResponse({"name": name, "unload": True})

    return router


def _entry(model: ModelInfo) -> dict[str, str]:
    return {
        "name": model.name,
        "version": model.version or "",
        "state": _STATES[model.state],
        "reason": model.error or ("unloaded" if model.state == "unloaded" else ""),
    }


def _wants_ready(body: bytes) -> bool:
    """Whether the index is to hold ready models alone: ``{"ready": true}``, or an empty body."""
    try:
        options: Any = json.loads(body or b"{}")
    except (ValueError, RecursionError) as exc:
        raise BadRequest("The body is not JSON.") from exc
    if not isinstance(options, dict) or not isinstance(options.get("ready", False), bool):
        raise BadRequest('The body may be empty, or {"ready": true}.')
    return bool(options.get("ready", False))
