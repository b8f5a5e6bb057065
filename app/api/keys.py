"""Keys: who may use the service, and who may change it."""

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import SetupError, Unauthorized


class Keyed:
    """Asks for an API key where the operator has set some.

    Args:
        app: what is behind it.
        keys: the keys; empty: everybody may.
        open_paths: need none; those that end in a slash, with all that lies below.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Sequence[str]) -> None:
        self._app = app
        self._ring = KeyRing(keys)
        self._open_paths = frozenset(open_paths)
        self._open_folders = tuple(
            path for path in open_paths if path.endswith("/") and path != "/"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._ring and not self._may(scope):
            raise Unauthorized("Send a key as 'Authorization: Bearer …' or 'X-API-Key: …'.")
        await self._app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in self._open_paths or path.startswith(self._open_folders):
            return True
        return self._ring.opens(Headers(scope=scope))


class KeyRing:
    """Keys, any of which opens; what is kept of them is a hash."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def opens(self, headers: Headers) -> bool:
        """Whether a request with these headers brings one of the keys, in either way."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key", ""), bearer if scheme.lower() == "bearer" else ""]
        # Headers are read as Latin-1: back to the bytes that came.
        digests = [hashlib.sha256(key.strip().encode("latin-1")).digest() for key in given]
        # Every key is compared, in constant time.
        return sum(hmac.compare_digest(d, known) for d in digests for known in self._digests) > 0


def read_keys(file: Path | None) -> list[str]:
    """The keys of a file, one a line; lines that start with # are comments.

    Raises:
        SetupError: the file cannot be read, or holds no key.
    """
    if file is None:
        return []
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise SetupError(f"APP_API_KEYS_FILE: {exc}") from exc
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SetupError(f"APP_API_KEYS_FILE: {file} holds no key")
    return keys
