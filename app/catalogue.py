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
from app.options import POSITIVE, ExplainOptions, PredictOptions, top
from app.types import Catalogue, MethodInfo, ModelInfo

_SHARED = {"activations", "gradients"}  # what every batch has
_BEST_FIRST = ("ready", "loading", "failed", "unloaded")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the worker is asked to explain: indices and ``topK``, methods, layers.

    ``needs`` is what the methods need beside activations and their gradients; ``maps`` is how many
    maps they make; ``slow`` is whether one of them takes many passes.
    """

    classes: tuple[int | str, ...] = ()
    methods: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    against: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    maps: int = 0
    slow: bool = False


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
            raise ModelNotLoaded(f"{name!r} is not loaded. Its operator can load it.")
        if model.state == "loading":
            raise ModelLoading(f"{name!r} is being loaded.", retry_after=2)
        if model.state == "failed":
            raise ModelFailed(f"{name!r} failed to load: {model.error}")
        return model

    def missing(self, names: Iterable[str]) -> dict[str, str]:
        """Of these models, those that should be served now and are not, and why.

        Not those that were unloaded, or taken from the models folder, while the service ran.
        """
        if not self._models:
            return dict.fromkeys(names, "no worker is up")
        known = [self._models[name] for name in names if name in self._models]
        return {
            model.name: model.error or model.state
            for model in known
            if model.state not in {"ready", "unloaded"}
        }

    def plan(self, model: ModelInfo, options: PredictOptions, max_maps: int) -> Plan:
        """Check what is to be explained; nothing, for a mere prediction.

        Raises:
            InvalidOption: naming the option.
        """
        if not isinstance(options, ExplainOptions):
            return Plan()
        _check_methods(options.method, model)
        methods = [self.methods[name] for name in options.method]
        layers = _find_layers(options.layer, model, methods)
        most = max_maps // len(methods)
        classes = tuple(_resolve_class(entry, model, most) for entry in options.classes)
        if len(set(classes)) < len(classes):
            raise InvalidOption.of(
                "classes", "the same class is given twice, as index and as label"
            )
        maps = len(methods) * sum(_count(entry, model, most) for entry in classes)
        if maps > max_maps:
            raise InvalidOption.of("classes", f"asks for {maps} maps; the limit is {max_maps}")
        return Plan(
            classes=classes,
            methods=options.method,
            layers=layers,
            against=_find_rivals(options.against, model, methods),
            needs=tuple(sorted({need for m in methods for need in m.needs} - _SHARED)),
            maps=maps,
            slow=any(method.lane == "slow" for method in methods),
        )


def _find_layers(
    layers: Sequence[str], model: ModelInfo, methods: Sequence[MethodInfo]
) -> tuple[str, ...]:
    """The layers' own names; none for the model's own one, named or not: both share a batch."""
    found = tuple(_find_layer(layer, model) for layer in layers)
    at_layers = [m for m in methods if "activations" in m.needs]
    if found and not at_layers:
        raise InvalidOption.of("layer", f"{methods[0].name} looks at no layer; leave it out")
    if len(set(found)) < len(found):
        raise InvalidOption.of("layer", "the same layer is given twice, by two of its names")
    for method in at_layers:
        if len(found) > 1 and not method.several_layers:
            raise InvalidOption.of(
                "layer", f"{method.name} takes one layer; layercam takes several"
            )
    return () if found == (model.layer,) else found


def _find_layer(layer: str, model: ModelInfo) -> str:
    for known in model.layers:
        if layer in {known.name, *known.aliases}:
            return known.name
    raise InvalidOption.of("layer", f"{model.name} has no layer {layer!r} that holds a map;"
                   f" see /api/v1/models/{model.name}")  # fmt: skip


def _find_rivals(
    against: Sequence[int | str], model: ModelInfo, methods: Sequence[MethodInfo]
) -> tuple[int, ...]:
    if against and not any(method.against for method in methods):
        raise InvalidOption.of("against", "is for finercam alone")
    rivals = [_resolve("against", entry, model) for entry in against]
    if any(isinstance(rival, str) for rival in rivals):
        raise InvalidOption.of("against", "each must be an index or a label")
    return tuple(rival for rival in rivals if isinstance(rival, int))


def _check_methods(methods: Iterable[str], model: ModelInfo) -> None:
    for method in methods:
        if method not in model.methods:
            raise InvalidOption.of("method", f"{method!r} does not suit {model.name}; these do:"
                           f" {', '.join(model.methods)}")  # fmt: skip


def _resolve_class(entry: int | str, model: ModelInfo, most: int) -> int | str:
    """As ``_resolve``; of the positive classes as many as there may be maps."""
    if entry != POSITIVE or POSITIVE in model.labels:
        return _resolve("classes", entry, model)
    if model.activation != "sigmoid":
        detail = "has exclusive classes, none of them is positive by itself; ask for top3"
        raise InvalidOption.of("classes", f"{model.name} {detail}")
    return f"{POSITIVE}{most}"


def _resolve(option: str, entry: int | str, model: ModelInfo) -> int | str:
    """An index or ``topK`` as it is; a label becomes its index."""
    if isinstance(entry, int):
        if not 0 <= entry < len(model.labels):
            raise InvalidOption.of(option, f"{entry} is not from 0 to {len(model.labels) - 1}")
        return entry
    if top(entry):
        return entry
    indices = [index for index, label in enumerate(model.labels) if label == entry]
    if not indices:
        raise InvalidOption.of(option, f"{model.name} has no label {entry!r}")
    if len(indices) > 1:
        listed = ", ".join(map(str, indices))
        raise InvalidOption.of(
            option, f"{entry!r} is the label of several classes; say which: {listed}"
        )
    return indices[0]


def _count(entry: int | str, model: ModelInfo, most: int) -> int:
    count = most if str(entry).startswith(POSITIVE) else top(entry) or 1
    return min(count, len(model.labels))
