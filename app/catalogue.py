"""What the workers serve, taken together; requests are checked against it before any work."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.errors import (
    InvalidOption,
    ModelFailed,
    ModelLoading,
    ModelNotLoaded,
    NoWorker,
    UnknownModel,
)
from app.options import ExplainOptions, PredictOptions, top
from app.types import Catalogue, ModelInfo

_BEST_FIRST = ("ready", "loading", "failed", "unloaded")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the worker is asked to explain: indices and ``topK``, methods, and a layer.

    ``maps`` is how many maps that makes.
    """

    classes: tuple[int | str, ...] = ()
    methods: tuple[str, ...] = ()
    layer: str | None = None
    maps: int = 0


class Models:
    """The models and methods of all workers; of a model, the best state it has anywhere."""

    def __init__(self, catalogues: Sequence[Catalogue]) -> None:
        self._models: dict[str, ModelInfo] = {}
        every = [model for catalogue in catalogues for model in catalogue.models]
        for model in sorted(every, key=lambda model: _BEST_FIRST.index(model.state)):
            self._models.setdefault(model.name, model)
        self.methods = {m.name: m for catalogue in catalogues for m in catalogue.methods}
        self.torch = catalogues[0].torch if catalogues else ""

    def __iter__(self) -> Iterator[ModelInfo]:
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def get(self, name: str) -> ModelInfo:
        """A model in any state.

        Raises:
            NoWorker: no worker has said yet what there is.
            UnknownModel: there is no manifest of that name.
        """
        if not self._models:
            raise NoWorker("No worker is up yet.", retry_after=2)
        if name not in self._models:
            raise UnknownModel(f"There is no model {name!r}; there are"
                               f" {', '.join(sorted(self._models))}.")  # fmt: skip
        return self._models[name]

    def ready(self, name: str) -> ModelInfo:
        """A model that can be used now.

        Raises:
            CamserveError: as ``get``, or it is not loaded, loading, or failed to load.
        """
        model = self.get(name)
        if model.state == "unloaded":
            raise ModelNotLoaded(f"{name!r} is not loaded: start the server with it in APP_MODELS.")
        if model.state == "loading":
            raise ModelLoading(f"{name!r} is being loaded.", retry_after=2)
        if model.state == "failed":
            raise ModelFailed(f"{name!r} failed to load: {model.error}")
        return model

    def missing(self, names: Iterable[str]) -> dict[str, str]:
        """Of these models, those that no worker serves now, and why."""
        found = {name: self._models.get(name) for name in names}
        unknown = "there is no such model" if self._models else "no worker is up"
        return {
            name: (model.error or model.state) if model else unknown
            for name, model in found.items()
            if model is None or model.state != "ready"
        }

    def plan(self, model: ModelInfo, options: PredictOptions, max_maps: int) -> Plan:
        """Check what is to be explained; nothing, for a mere prediction.

        Raises:
            InvalidOption: naming the option.
        """
        if not isinstance(options, ExplainOptions):
            return Plan()
        layer = _find_layer(options.layer, model)
        _check_methods(options.method, model)
        classes = tuple(_resolve(entry, model) for entry in options.classes)
        if len(set(classes)) < len(classes):
            raise _invalid("classes", "the same class is given twice, as index and as label")
        maps = len(options.method) * sum(_count(entry, model) for entry in classes)
        if maps > max_maps:
            raise _invalid("classes", f"asks for {maps} maps; the limit is {max_maps}")
        return Plan(classes=classes, methods=options.method, layer=layer, maps=maps)


def _find_layer(layer: str | None, model: ModelInfo) -> str | None:
    """The layer's own name; None for the model's own layer, named or not: both share a batch."""
    if layer is None:
        return None
    found = [known.name for known in model.layers if layer in {known.name, *known.aliases}]
    if not found:
        raise _invalid("layer", f"{model.name} has no layer {layer!r} that holds a map;"
                       f" see /api/v1/models/{model.name}")  # fmt: skip
    return None if found[0] == model.layer else found[0]


def _check_methods(methods: Iterable[str], model: ModelInfo) -> None:
    for method in methods:
        if method not in model.methods:
            raise _invalid("method", f"{method!r} does not suit {model.name}; these do:"
                           f" {', '.join(model.methods)}")  # fmt: skip


def _resolve(entry: int | str, model: ModelInfo) -> int | str:
    """An index or ``topK`` as it is; a label becomes its index."""
    if isinstance(entry, int):
        if not 0 <= entry < len(model.labels):
            raise _invalid("classes", f"{entry} is not from 0 to {len(model.labels) - 1}")
        return entry
    if top(entry):
        return entry
    indices = [index for index, label in enumerate(model.labels) if label == entry]
    if not indices:
        raise _invalid("classes", f"{model.name} has no label {entry!r}")
    if len(indices) > 1:
        listed = ", ".join(map(str, indices))
        raise _invalid("classes", f"{entry!r} is the label of several classes; say which: {listed}")
    return indices[0]


def _count(entry: int | str, model: ModelInfo) -> int:
    return min(top(entry) or 1, len(model.labels))


def _invalid(field: str, detail: str) -> InvalidOption:
    return InvalidOption(f"{field}: {detail}.", fields=[(field, detail)])
