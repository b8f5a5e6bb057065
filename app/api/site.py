"""The page at ``/`` and the sample pictures it offers: static files, nothing from elsewhere."""

import tomllib
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.api import documentation as doc
from app.api.negotiate import negotiate
from app.api.schemas import Sample, SamplesResponse
from app.errors import NotAcceptable

PAGE = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


def add_site(api: FastAPI, samples_dir: Path) -> None:
    """Add page and samples.

    Args:
        api: gets the routes.
        samples_dir: pictures, their masks, and ``samples.toml``; may be absent.
    """

    @api.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        headers = {"Vary": "Accept", "Cache-Control": "no-cache"}
        if not _wants_page(request.headers.get("accept", "")):
            return JSONResponse({"status": "alive"}, headers=headers)
        policy = {"Content-Security-Policy": _POLICY}
        return FileResponse(PAGE / "index.html", headers=headers | policy)

    @api.get("/api/v1/samples", responses=doc.errors(401))
    async def samples() -> SamplesResponse:
        """Pictures to try."""
        return SamplesResponse(samples=read_samples(samples_dir))

    api.mount("/page", StaticFiles(directory=PAGE))
    if samples_dir.is_dir():
        api.mount("/samples", StaticFiles(directory=samples_dir))


def read_samples(folder: Path) -> list[Sample]:
    """The samples that ``samples.toml`` lists; none where there is no such file."""
    index = folder / "samples.toml"
    if not index.is_file():
        return []
    entries = tomllib.loads(index.read_text("utf-8"))["sample"]
    return [
        Sample(
            name=Path(entry["file"]).stem,
            url=f"/samples/{entry['file']}",
            mask=f"/samples/{entry['mask']}",
            model=entry["model"],
            caption=entry["caption"],
        )
        for entry in entries
    ]


def _wants_page(accept: str) -> bool:
    try:
        return negotiate(accept, ("application/json", "text/html")) == "text/html"
    except NotAcceptable:
        return False  # whoever asks for something else is most likely checking our health
