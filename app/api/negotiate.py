"""Which of our media types a client would rather have."""

import re
from collections.abc import Sequence

from app.errors import NotAcceptable

_QUALITY = re.compile(r"q=(0(\.\d*)?|1(\.0*)?)", re.ASCII | re.IGNORECASE)


def negotiate(accept: str, offers: Sequence[str]) -> str:
    """The best offer for an ``Accept`` header; the first one among equals.

    Raises:
        NotAcceptable: none of them will do.
    """
    ranges = [_media_range(part) for part in (accept.strip(" ,") or "*/*").split(",")]
    quality = {offer: _quality(offer, ranges) for offer in offers}
    best = max(offers, key=quality.__getitem__)
    if quality[best] <= 0:
        raise NotAcceptable(f"None of {', '.join(offers)} is in 'Accept: {accept}'.")
    return best


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    given = next((p for p in parameters if p.lower().startswith("q=")), "q=1")
    match = _QUALITY.fullmatch(given)
    return name.lower(), float(match[1]) if match else 0.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """That of the most specific range that covers the offer."""
    kind = offer.partition("/")[0]
    for wanted in (offer, f"{kind}/*", "*/*"):
        found = [quality for name, quality in ranges if name == wanted]
        if found:
            return max(found)
    return 0.0
