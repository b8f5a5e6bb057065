"""Weights from the network: one file, known by its hash, kept in torch's own cache.

A download that was cut goes on where it stopped; the file appears in its place whole or not at all.
"""

import hashlib
import ipaddress
import socket
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch.hub

from app.backbones.alone import alone
from app.errors import ModelCheckFailed

_TIMEOUT_S = 20  # without a byte
_CHUNK = 2**20
_NO_MORE = 416  # the part is as long as the file, or longer


def fetch(url: str, sha256: str) -> Path:
    """Get a file, or find it in the cache.

    Args:
        url: http or https. A redirect may lead to another public host; one to a private address is
            refused, unless ``url`` itself named that host.
        sha256: of the whole file, in hexadecimal.

    Returns:
        Where it is: its hash is the one that was asked for.

    Raises:
        ModelCheckFailed: the network fails, or what came is another file.
    """
    name = Path(urlsplit(url).path).name
    place = Path(torch.hub.get_dir()) / "checkpoints" / f"{sha256[:16]}-{name}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with alone(place):
        if not place.exists():
            part = place.with_name(place.name + ".part")
            try:
                _download(url, part)
            except (OSError, HTTPException) as exc:
                raise ModelCheckFailed(
                    f"cannot get {url} ({exc}). Allow that download once, or put the file where"
                    f" it would be kept: {place}"
                ) from exc
            _check(part, url, sha256)
            part.rename(place)
    return place


def _download(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - checked
    opener = build_opener(_Redirects(urlsplit(url).hostname or ""))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            goes_on = answer.status == 206 and have  # noqa: PLR2004 - partial content
            with part.open("ab" if goes_on else "wb") as file:
                _copy(answer, file, already=have if goes_on else 0)
    except HTTPError as exc:
        if exc.code != _NO_MORE:
            raise


def _copy(answer: IO[bytes], file: IO[bytes], already: int) -> None:
    length = getattr(answer, "length", None)  # of what is still to come
    total = length and already + length
    # A progress bar: tqdm's where it is installed, or torch's own plain one.
    with torch.hub.tqdm(total=total, initial=already, unit="B", unit_scale=True) as progress:  # type: ignore[attr-defined]
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            progress.update(len(chunk))
            already += len(chunk)
            length = length and length - len(chunk)
    if length:
        raise URLError(f"cut off after {already} bytes; another try goes on from there")


def _check(part: Path, url: str, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise ModelCheckFailed(f"{url} has sha256 {found}, its manifest says {sha256}")


class _Redirects(HTTPRedirectHandler):
    """A public server must not send us to the hosts behind our own firewall."""

    def __init__(self, named: str) -> None:
        self._named = named

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Follow a redirect to a host that may be asked."""
        target = urlsplit(newurl)
        if req.type == "https" and target.scheme != "https":
            raise URLError(f"redirected from https to {newurl}")
        if target.hostname != self._named and _is_private(target.hostname or ""):
            raise URLError(f"redirected to a private address, {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_private(host: str) -> bool:
    addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    return any(not ipaddress.ip_address(address).is_global for address in addresses)
