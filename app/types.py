"""The nouns that travel between rooms. No tensors, no Pillow, no HTTP."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Pixels = NDArray[np.uint8]  # [H, W, 3], RGB
Floats = NDArray[np.float32]  # of any shape
Map = NDArray[np.float32]  # [h, w]
ModelState = Literal["unloaded", "loading", "ready", "failed"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
View = Literal["crop", "full"]
Precision = Literal["fp32", "bf16", "fp16"]
Action = Literal["load", "unload"]  # of a model, while the service runs
CompileState = Literal["off", "running", "ready", "failed"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocess(Frozen):
    """How an upright picture becomes the model's input (the names of torchvision's presets).

    ``resize`` is the shorter side, or ``(height, width)``; ``crop`` is ``(height, width)``.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class MethodInfo(Frozen):
    """An explanation method as ``GET /api/v1/methods`` tells it.

    ``relu``: its picture shows positive values alone. ``several_layers`` and ``against``: it takes
    these options. ``lane``, ``needs`` and these two are read off its code.
    """

    name: str
    title: str
    paper: str
    cost: str
    lane: Literal["fast", "slow"] = "fast"
    needs: tuple[str, ...] = ()
    relu: bool = True
    class_specific: bool = True
    several_layers: bool = False
    against: bool = False
    warning: str = ""


class LayerInfo(Frozen):
    """A place where a model can be explained; ``grid`` is the map's ``(h, w)``.

    ``aliases`` are other module paths to the same value.
    """

    name: str
    grid: tuple[int, int]
    aliases: tuple[str, ...] = ()


class CompileInfo(Frozen):
    """Whether compiled programs compute a model's trunk, and what each gains; or why none does.

    A model serves in any of these states.
    """

    state: CompileState = "off"
    detail: str = ""


class ModelInfo(Frozen):
    """A model as the worker's catalogue and ``GET /api/v1/models`` tell it.

    ``memory_bytes`` is what loading and warming it up took, as measured; ``precision`` is of its
    trunk; ``traced``: it is cut in two, else explained by a hook.
    """

    name: str
    state: ModelState
    description: str = ""
    family: str = ""
    architecture: str = ""
    version: str | None = None
    error: str | None = None
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    activation: Literal["softmax", "sigmoid"] = "softmax"
    threshold: float = 0.5
    precision: Precision = "fp32"
    memory_bytes: int | None = None
    compile: CompileInfo = CompileInfo()
    traced: bool = True
    layer: str | None = None
    layers: tuple[LayerInfo, ...] = ()
    methods: tuple[str, ...] = ()


class Catalogue(Frozen):
    """What one worker serves: sent as its hello, and again whenever it changes."""

    device: str
    torch: str
    models: tuple[ModelInfo, ...]
    methods: tuple[MethodInfo, ...]


BUDGET_EXHAUSTED = "budget_exhausted"  # flag of a map that more passes, or time, would improve


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One picture for one model, as the worker takes it.

    ``classes`` holds class indices and ``"topK"``; no ``methods`` means predict only; no ``layers``
    the model's own. ``needs`` is what the methods need beside the activations and their gradients:
    rows of the same needs can share a batch. ``budget`` is how many rows the slow methods may pass
    through the model.
    ``deadline`` is in seconds of ``time.monotonic()``, which all processes of a machine share.
    """

    model: str
    version: str
    pixels: Pixels
    deadline: float
    classes: tuple[int | str, ...] = ()
    methods: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    against: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    slow: bool = False
    seed: int = 0
    budget: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """A raw map: signed, before any ReLU, in the method's own units.

    ``residual``: by how much its sum misses the difference of logits that it stands for, where the
    method promises that it does not.
    """

    index: int
    method: str
    layer: str
    values: Map
    flags: tuple[str, ...] = ()
    residual: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows that passed through the model, of how many."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """Numbers for one job; ``timings`` are in milliseconds."""

    logits: NDArray[np.float32]  # [classes]
    scores: NDArray[np.float32]  # [classes]
    maps: tuple[ClassMap, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upright upload, half-open; fractions of a pixel are meant."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionReport:
    """How the positive evidence of a map lies to a region.

    ``inside_share`` of the evidence lies inside, ``area_share`` of what the model saw does;
    ``lift`` is their quotient. ``counterfactual`` are the class's scores of the picture as it is,
    with the inside blurred away, and with the outside blurred away.
    """

    inside_share: float
    area_share: float
    lift: float | None
    peak_inside: bool
    counterfactual: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class HotSpot:
    """A connected hot part of a map, in pixels of the upright upload; ``peak`` is from 0 to 1."""

    box: Box
    peak: float
    contour: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A class's score as more and more of the picture is taken away, or given back.

    ``area`` under the curve, and under that of a random map in its place.
    """

    scores: tuple[float, ...]
    area: float
    random_area: float


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture."""

    media_type: str
    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Prediction:
    index: int
    label: str
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The upload, upright; ``crop`` is the part that the model saw."""

    width: int
    height: int
    format: str
    orientation: int
    crop: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One map and its pictures; what was not asked for is None.

    ``raw`` is the signed map; ``grid`` the same, averaged where it is too fine to be told as text.
    """

    index: int
    label: str
    method: str
    layer: str
    raw: Map
    grid: Map
    flags: tuple[str, ...]
    residual: float | None = None
    with_raw: bool = False
    heatmap: Picture | None = None
    overlay: Picture | None = None
    spots: tuple[HotSpot, ...] | None = None
    with_region: bool = False
    region: RegionReport | None = None
    checks: dict[str, Curve] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request gets; ``timings`` are in milliseconds."""

    model: ModelInfo
    image: ImageInfo
    predictions: tuple[Prediction, ...]
    explanations: tuple[Explanation, ...]
    torch: str
    timings: dict[str, float]
    normalize: str = "minmax"
    seed: int | None = None
