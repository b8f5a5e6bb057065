"""The options of a request: one definition for query, form, JSON and command line."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.types import View

Colormap = Literal["inferno", "viridis", "magma", "cividis", "turbo", "jet"]
Output = Literal["heatmap", "overlay", "raw", "boxes"]
Check = Literal["deletion", "insertion"]
Format = Literal["png", "webp", "jpeg"]

_MAX_ENTRIES = 1000
_MAX_LAYERS = 8
_CORNERS = 4  # numbers of a box
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TOP = re.compile(r"top([1-9][0-9]{0,3})")


def split_commas(value: object) -> object:
    """``"a, b"`` → ``["a", "b"]``; a single number becomes a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list, or text with commas")
    return value


def class_name(value: object) -> object:
    """An integer, however it is written, is a class index; anything else is a name."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if value == "" or isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("each must be an index, a label, or top1, top3, …")
    return value


def whole(value: object) -> int:
    """An integer, as number or text; pydantic alone would also take ``true``, 2.0 and 1_000."""
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("must be an integer")


def box(value: object) -> object:
    """Four numbers, or nothing."""
    if value is None:
        return None
    parts = split_commas(value)
    if not isinstance(parts, list | tuple) or len(parts) != _CORNERS:
        raise ValueError("must be x0,y0,x1,y1: four numbers")
    return parts


def number(value: object) -> float:
    """A decimal number, as number or text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError("must be a number")


def flag(value: object) -> bool:
    """True or false, as JSON or text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in {"true", "false"}:
        return value == "true"
    raise ValueError("must be true or false")


def top(entry: int | str) -> int | None:
    """3 for ``top3``; None for an index or a label."""
    match = _TOP.fullmatch(entry) if isinstance(entry, str) else None
    return int(match[1]) if match else None


POSITIVE = "positive"  # of ``classes``: all that reach the threshold

ClassName = Annotated[int | str, BeforeValidator(class_name)]
Whole = Annotated[int, BeforeValidator(whole)]
Number = Annotated[float, BeforeValidator(number)]
Flag = Annotated[bool, BeforeValidator(flag)]


class PredictOptions(BaseModel):
    """Options of ``predict``, and of ``explain`` too."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str | None = Field(None, description="A name from /api/v1/models.")
    top_k: Whole = Field(5, ge=1, le=1000, description="How many predictions.")
    view: View = Field(
        "crop",
        description="crop: as the model was trained; full: the whole picture, squashed.",
    )
    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000), BeforeValidator(whole)] | None = Field(
        None,
        description="Answer within this time or fail with 504; the server has a limit too.",
    )

    @property
    def picture_side(self) -> int:
        """How large the upload itself is needed for the answer; 0 where it is not."""
        return 0

    @property
    def pictures(self) -> int:
        """How many pictures each map becomes."""
        return 0

    def seconds(self, limit: float) -> float:
        """The time this request may take."""
        return limit if self.deadline_ms is None else min(limit, self.deadline_ms / 1e3)


class ExplainOptions(PredictOptions):
    """Options of ``explain``."""

    classes: Annotated[
        tuple[ClassName, ...],
        Field(
            min_length=1,
            max_length=_MAX_ENTRIES,
            description="top1, top3, …; positive, of independent classes; an integer is an index;"
            " anything else an exact label.",
        ),
        BeforeValidator(split_commas),
    ] = ("top1",)
    method: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            max_length=_MAX_ENTRIES,
            description="Names from /api/v1/methods; several are compared.",
        ),
        BeforeValidator(split_commas),
    ] = ("gradcam",)
    layer: Annotated[
        tuple[str, ...],
        Field(
            max_length=_MAX_LAYERS,
            description="A layer of the model, or several for layercam; its own cut if absent.",
        ),
        BeforeValidator(split_commas),
    ] = ()
    against: Annotated[
        tuple[ClassName, ...],
        Field(
            max_length=_MAX_ENTRIES,
            description="finercam: the classes to compare with; the three nearest if absent.",
        ),
        BeforeValidator(split_commas),
    ] = ()
    output: Annotated[
        tuple[Output, ...],
        Field(
            min_length=1,
            max_length=_MAX_ENTRIES,
            description="Any of heatmap, overlay, raw, boxes; the grid is always there.",
        ),
        BeforeValidator(split_commas),
    ] = ("heatmap",)
    format: Format = Field("png", description="png or webp; jpeg for overlays.")
    size: Whole = Field(
        640, ge=1, le=8192, description="Longest side of the pictures, never above the upload's."
    )
    colormap: Colormap = Field("inferno", description="turbo and jet are not perceptually uniform.")
    alpha: Number = Field(0.6, ge=0, le=1, description="Opacity of the strongest evidence.")

    seed: Whole = Field(0, ge=0, le=2**31 - 1, description="For methods that draw at random.")
    budget: Annotated[int, Field(ge=1), BeforeValidator(whole)] | None = Field(
        None,
        description="Rows that methods of many passes may send through the model; the server's"
        " limit if absent.",
    )

    scale: Literal["map", "shared"] = Field(
        "map",
        description="shared: one scale for all maps of a method, so that a weak one looks weak.",
    )
    normalize: Literal["minmax", "pytorch-grad-cam"] = Field(
        "minmax", description="pytorch-grad-cam: the pictures that library makes."
    )
    threshold: Number = Field(
        0.5, gt=0, le=1, description="boxes: how hot, of the hottest, a part must be."
    )
    region: Annotated[
        tuple[Number, Number, Number, Number] | None,
        BeforeValidator(box),
        Field(description="x0,y0,x1,y1 in pixels of the upright upload: how much lies inside?"),
    ] = None
    counterfactual: Flag = Field(
        False, description="The scores with the region blurred away, and with all but it."
    )
    check: Annotated[
        tuple[Check, ...],
        Field(
            max_length=_MAX_ENTRIES,
            description="deletion, insertion: the score as the hottest parts go, or come, first.",
        ),
        BeforeValidator(split_commas),
    ] = ()

    @property
    def picture_side(self) -> int:
        return self.size if "overlay" in self.output else 0

    @property
    def pictures(self) -> int:
        return len({"heatmap", "overlay"}.intersection(self.output))

    @property
    def asks_for_several(self) -> bool:
        """Whether more than one map is asked for."""
        maps = len(self.method) * sum(top(entry) or 1 for entry in self.classes)
        return POSITIVE in self.classes or maps > 1

    @model_validator(mode="after")
    def _jpeg_is_opaque(self) -> "ExplainOptions":
        if self.format == "jpeg" and "heatmap" in self.output:
            raise ValueError("format: jpeg has no transparency; ask for output=overlay, or use png")
        return self

    @model_validator(mode="after")
    def _scales_fit(self) -> "ExplainOptions":
        if self.scale == "shared" and self.normalize != "minmax":
            raise ValueError("scale: pytorch-grad-cam scales each map for itself")
        return self

    @model_validator(mode="after")
    def _region_has_an_area(self) -> "ExplainOptions":
        if self.region and not (
            self.region[0] < self.region[2] and self.region[1] < self.region[3]
        ):
            raise ValueError("region: must be x0,y0,x1,y1 with x0 < x1 and y0 < y1")
        return self

    @model_validator(mode="after")
    def _no_repeats(self) -> "ExplainOptions":
        for name in ("classes", "method", "output", "layer", "against", "check"):
            values: tuple[Any, ...] = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: the same entry is given twice")
        return self
