"""The ASGI application: routes inside, middlewares around them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp

import app
from app.api.cache import ResponseCache
from app.api.documentation import Documented
from app.api.errors import on_camserve_error, on_http_exception
from app.api.health import health_router
from app.api.keys import Keyed
from app.api.limits import Bounded, Cors, Guarded, HeadAsGet, Identified
from app.api.native import NativeApi
from app.api.repository import Manage, repository_router
from app.api.site import add_site
from app.errors import CamserveError
from app.metrics import Metrics
from app.service import Service

_OPEN_PATHS = (
    "/", "/livez", "/readyz", "/page/", "/samples/", "/docs", "/openapi.json",
    "/v2/repository/",  # asks for the operator's own token
)  # fmt: skip
_EXPOSED = (
    "ETag", "X-Request-ID", "Retry-After", "Server-Timing",
    "X-Top-Index", "X-Top-Score", "X-Top-Label",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What the HTTP side must know of the settings."""

    start_models: Sequence[str]
    samples_dir: Path
    max_body_bytes: int
    max_held_bytes: int
    receive_timeout_s: float
    cors_origins: Sequence[str]
    cache_bytes: int = 0
    keys: Sequence[str] = ()
    admin_token: str | None = field(default=None, repr=False)


def create_app(
    service: Service,
    metrics: Metrics,
    settings: ApiSettings,
    is_draining: Callable[[], bool],
    scrape: Callable[[], Awaitable[str]],
    manage: Manage,
) -> ASGIApp:
    """Put the HTTP side together."""
    api = Documented(
        keyed=bool(settings.keys),
        title="camserve",
        version=app.__version__,
        description="Class scores and the heatmap they rest on, in one request.",
        middleware=_middlewares(metrics, settings, is_draining),
        exception_handlers={
            CamserveError: on_camserve_error,
            HTTPException: on_http_exception,
        },
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # behind a load balancer a redirect points to the wrong host
    )
    cache = ResponseCache(settings.cache_bytes) if settings.cache_bytes else None
    api.include_router(NativeApi(service, metrics, settings.max_body_bytes, cache).router)
    api.include_router(health_router(service, settings.start_models, is_draining, scrape))
    api.include_router(repository_router(service, settings.admin_token, manage))
    add_site(api, settings.samples_dir)
    return api


def _middlewares(
    metrics: Metrics, settings: ApiSettings, is_draining: Callable[[], bool]
) -> list[Middleware]:
    """From outside in. What one of them refuses passes through those before it."""
    return [
        Middleware(Identified, metrics, is_draining),
        Middleware(
            Cors,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        ),
        Middleware(
            Bounded, settings.max_body_bytes, settings.max_held_bytes, settings.receive_timeout_s
        ),
        Middleware(Guarded),
        Middleware(HeadAsGet),
        Middleware(Keyed, settings.keys, _OPEN_PATHS),
    ]
