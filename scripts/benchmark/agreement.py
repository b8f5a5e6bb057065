"""Whether a peer's answer is camserve's: the same weights, the same input, the same top class."""

import base64
import json
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Predictions = Sequence[Mapping[str, float]]

TOLERANCE = 1e-3  # of a score
MOST_LEVELS = 1.0  # of 255, the mean over a picture


def predictions(body: bytes) -> Predictions:
    """Of an answer's JSON."""
    found: Predictions = json.loads(body)["predictions"]
    return found


def disagreement(ours: Predictions, theirs: Predictions, tolerance: float = TOLERANCE) -> str:
    """What differs, in words; empty where nothing does."""
    if ours[0]["index"] != theirs[0]["index"]:
        return f"top class {theirs[0]['index']}, not {ours[0]['index']}"
    by_index = {entry["index"]: entry["score"] for entry in theirs}
    for entry in ours:
        other = by_index.get(entry["index"])
        if other is not None and abs(other - entry["score"]) > tolerance:
            return f"class {entry['index']}: score {other:.4f}, not {entry['score']:.4f}"
    return ""


def overlay(body: bytes) -> NDArray[np.float32]:
    """The picture of an answer, from camserve's place for it or the peers': [height, width, 3]."""
    answer = json.loads(body)
    encoded = answer.get("overlay") or answer["explanations"][0]["overlay"]["base64"]
    picture = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")
    return np.asarray(picture, np.float32)


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> str:
    """What differs between two overlays, in words; empty where nothing does."""
    if ours.shape != theirs.shape:
        return f"overlay {theirs.shape}, not {ours.shape}"
    levels = float(np.abs(ours - theirs).mean())
    return f"overlay: {levels:.1f} levels of 255 off" if levels > MOST_LEVELS else ""
