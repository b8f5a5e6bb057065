"""Ways to call the API in a test, and the pictures to call it with."""

import asyncio
import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from starlette.types import ASGIApp, Message

from app.admission import Admission
from app.api.application import ApiSettings, create_app
from app.api.repository import Manage
from app.metrics import Metrics
from app.order import RequestLimits
from app.service import Service
from app.types import Action
from tests.fakes import FakeEngine

EXPLAIN, PREDICT = "/api/v1/explain", "/api/v1/predict"
MAX_BODY = 200_000
ORIGIN = "https://front.example"

_THREADS = ThreadPoolExecutor(2, "pictures")


def picture(image_format: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    """Red on the left, green on the right; more red than green."""
    image = Image.new("RGB", size, (250, 10, 5))
    image.paste((5, 240, 10), (size[0] * 5 // 8, 0, *size))
    out = BytesIO()
    image.save(out, image_format)
    return out.getvalue()


PHOTO = picture()


def in_base64(data: bytes = PHOTO) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Api:
    """The application around a fake engine, and ways to send requests to it."""

    engine: FakeEngine
    asgi: ASGIApp
    events: list[dict[str, Any]]
    state: dict[str, bool]

    def as_new(self) -> "Api":
        """Forget what happened; building another application takes longer than most tests."""
        vars(self.engine).update(vars(FakeEngine()))
        self.events.clear()
        self.state["draining"] = False
        return self

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.asgi)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(send())

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.request("GET", path, headers=headers)

    def form(self, path: str = EXPLAIN, photo: bytes = PHOTO, **fields: Any) -> httpx.Response:
        return self.request("POST", path, files={"image": photo}, data=fields)

    def raw(
        self,
        path: str = EXPLAIN,
        photo: bytes = PHOTO,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        return self.request("POST", path, content=photo, params=query, headers=headers)

    def json(self, path: str = EXPLAIN, **keys: Any) -> httpx.Response:
        return self.request("POST", path, json={"image": in_base64(), **keys})

    def counted(self) -> list[tuple[str, str]]:
        """Route and status of the requests that were counted."""
        events = [event for line in self.events for event in line["events"]]
        labels = [labels for name, _, labels in events if name == "requests"]
        return [(label["route"], label["status"]) for label in labels]


def make_api(
    *,
    engine: FakeEngine | None = None,
    samples: Path = Path("nowhere"),
    keys: Sequence[str] = (),
    max_maps: int = 4,
    receive_timeout_s: float = 60,
    cors_origins: Sequence[str] = ("*",),
    start_models: Sequence[str] = ("colours",),
    max_body_bytes: int = MAX_BODY,
    max_held_bytes: int = 10 * MAX_BODY,
    max_queue: int = 100,
    cache_bytes: int = 0,
    max_budget: int = 1000,
    admin_token: str | None = None,
    manage: Manage | None = None,
) -> Api:
    """An application of its own."""
    engine = engine or FakeEngine()
    limits = RequestLimits(
        max_pixels=100_000,
        max_maps=max_maps,
        max_picture_pixels=1_000_000,
        max_budget=max_budget,
        deadline_s=60,
        slow_deadline_s=600,
    )
    events: list[dict[str, Any]] = []
    state = {"draining": False}

    async def scrape() -> str:
        return "# all well\n"

    async def forbid(action: Action, model: str) -> None:
        raise AssertionError(f"{action} {model}")

    settings = ApiSettings(
        start_models=start_models,
        samples_dir=samples,
        max_body_bytes=max_body_bytes,
        max_held_bytes=max_held_bytes,
        receive_timeout_s=receive_timeout_s,
        cors_origins=cors_origins,
        keys=keys,
        admin_token=admin_token,
        cache_bytes=cache_bytes,
    )
    service = Service(engine, _THREADS, limits, Admission(max_queue), "colours")
    asgi = create_app(
        service,
        Metrics(events.append),
        settings,
        lambda: state["draining"],
        scrape,
        manage or forbid,
    )
    return Api(engine, asgi, events, state)


def form_body(*parts: tuple[str, bytes], boundary: str = "b") -> tuple[bytes, dict[str, str]]:
    """A multipart body written by hand, and its header."""
    pieces = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in parts
    ]
    body = b"".join(pieces) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@dataclass
class Wire:
    """One request by hand, message by message, as a server would pass it on."""

    path: str = EXPLAIN
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    query: bytes = b""
    sent: list[Message] = field(default_factory=list)
    taken: int = 0

    def __post_init__(self) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()

    def body(self, data: bytes, *, more: bool = False) -> None:
        self._incoming.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def hang_up(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def call(self, asgi: ASGIApp) -> None:
        names = {name.lower(): value for name, value in self.headers.items()}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in names.items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        await asgi(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        message = await self._incoming.get()
        self.taken += len(message.get("body", b""))
        return message

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def answer_headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def answer(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])
