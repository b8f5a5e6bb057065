"""Whether a peer's answer is camserve's: the same weights, the same input, the same top class."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Predictions = Sequence[Mapping[str, float]]

TOLERANCE = 1e-3


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


def has_overlay(answer: Mapping[str, Any]) -> bool:
    """Whether a picture came with it: camserve's place for it, or the peers'."""
    if "overlay" in answer:
        return bool(answer["overlay"])
    return bool(answer["explanations"][0]["overlay"]["base64"])
