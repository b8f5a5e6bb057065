"""A classifier that is loaded, cut, checked and ready to serve."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from app.backbones.captured import Captured
from app.backbones.compiled import Compiled
from app.backbones.cores import Cores, Kind
from app.backbones.cut import Cutter, Untraceable
from app.backbones.family import build, labels, preprocess
from app.backbones.hooked import HookedCutter
from app.backbones.inputs import Inputs
from app.backbones.kept import Kept
from app.backbones.manifest import Manifest
from app.backbones.onednn import computes_in
from app.backbones.parts import Cut
from app.backbones.reference import Reference, tolerance
from app.backbones.rewire import attend, guided, has_attention, has_relu
from app.backbones.selfcheck import self_check
from app.errors import InvalidOption, ModelCheckFailed
from app.types import CompileInfo, LayerInfo, ModelInfo, Precision, Preprocess

if TYPE_CHECKING:
    from app.settings import Settings

log = logging.getLogger(__name__)

_MAX_CUTS = 64
_ODD = 3  # rows, which nothing was made for
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Loading:
    """How models are loaded.

    ``precision`` is of the trunk, where a manifest says nothing else; ``fused``: it is rewritten
    for speed, where the device has a way to (the weights must not change afterwards); ``rows``:
    of the largest batch that a GPU is prepared for; ``allow_factories``: the operator's own Python
    may build models.
    """

    precision: Precision = "fp32"
    fused: bool = True
    rows: int = 0
    allow_factories: bool = False

    def precision_of(self, manifest: Manifest) -> Precision:
        """Of a model's trunk."""
        return manifest.precision or self.precision

    @classmethod
    def by(cls, settings: "Settings") -> "Loading":
        """As the operator set it."""
        return cls(
            precision="fp32" if settings.precision == "auto" else settings.precision,
            rows=settings.max_batch_size,
            allow_factories=settings.allow_factories,
        )


DEFAULTS = Loading()


class Model:
    """A resident model. Frozen parameters, eval mode: safe to use from any thread.

    It has no hooks, unless it cannot be traced (``hooked.py``).

    Args:
        manifest: what to load.
        device: where it lives.
        loading: how.
        kept: what computes its trunk from the first picture on, if it gives the model's logits.

    Raises:
        ManifestError: the manifest asks for what cannot be.
        ModelCheckFailed: the weights are not to be had, or the model fails its self-check.
    """

    def __init__(
        self,
        manifest: Manifest,
        device: torch.device,
        loading: Loading = DEFAULTS,
        kept: Kept | None = None,
    ) -> None:
        if device.type == "cuda":
            # float32 means float32: tf32 moves logits by 3 parts in 10,000 (fp16 by 4, at twice the
            # speed of tf32).
            torch.backends.cudnn.allow_tf32 = False
        self.module: nn.Module = (
            build(manifest, allow_factories=loading.allow_factories)
            .eval()
            .requires_grad_(False)
            .to(device)
            .to(memory_format=torch.channels_last)
        )
        self.device = device
        self.preprocess: Preprocess = preprocess(manifest)
        self.inputs = Inputs(self.preprocess, device)
        self.threshold = manifest.threshold
        self.activation = manifest.activation
        self.precision = loading.precision_of(manifest)
        self.follows_weights = not loading.fused and self.precision == "fp32"
        example = self._examples()[:1]
        self._cutter = self._make_cutter(manifest, example, fused=loading.fused)
        self._cuts: dict[tuple[str, ...], Cut] = {}
        self._classifier: Captured | None = None  # at the model's own cut
        self._lock = Lock()
        self.layer = self._layer(manifest)
        first = self._refer_to(example)
        compiled = self._begin_with(kept, first) if kept and self.can_compile else CompileInfo()
        num_classes = self_check(first.logits, self.cut(), example, tolerance(self.precision))
        if device.type == "cuda" and loading.fused and loading.rows:
            self._capture(manifest.name, loading.rows)
        if self.precision != "fp32":
            trunk = self.cut().forward_features
            self.check_trunk(self.precision, trunk, len(self._reference.pictures))
        self.labels = labels(manifest, num_classes)
        self.info = self._describe(manifest, compiled)

    def cut(self, *layers: str) -> Cut:
        """The cut at some layers, or the model's own; the latest are kept.

        Raises:
            InvalidOption: there is no such layer.
        """
        with self._lock:
            if layers not in self._cuts:
                self._cuts[layers] = self._make_cut(*(layers or (self.layer,)))
            if len(self._cuts) > _MAX_CUTS:  # callers choose layers, and combine them
                del self._cuts[next(asked for asked in self._cuts if asked)]
            return self._cuts[layers]

    @cached_property
    def provides(self) -> frozenset[str]:
        """What methods may need of this model: the names of their parameters."""
        provided = {"activations", "gradients", "inputs", "input_gradients"}
        graph = self._cutter.module
        if isinstance(graph, fx.GraphModule) and has_relu(graph):
            provided.add("guided_gradients")
        if isinstance(graph, fx.GraphModule) and has_attention(graph) and self.cut().grid.prefix:
            provided |= {"attention", "attention_gradients"}
        return frozenset(provided)

    @property
    def clean_layer(self) -> str | None:
        """A layer at which the model can be cut in two, whichever its own one is."""
        try:
            return self._cutter.default if isinstance(self._cutter, Cutter) else None
        except ModelCheckFailed:
            return None

    def scores(self, logits: Tensor) -> Tensor:
        """[N, classes] → the same: of exclusive classes, or of each for itself."""
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1)

    def guided(self, x: Tensor) -> Tensor:
        """The logits, [N, classes], through ReLUs that let no negative gradient pass."""
        return guided(self._graph, x)

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the attention of each block, [N, heads, T, T]."""
        return attend(self._graph, x)

    def classify(self, batch: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
        """All of the model without gradients.

        Args:
            batch: pictures, as ``inputs.stack`` gives them.
            cut: where it is explained.

        Returns:
            The activations that the head takes, float32; and logits and scores, [N, 2, classes].
        """
        if self._classifier and cut is self._cuts[()]:
            captured: tuple[Tensor, Tensor] = self._classifier(batch)
            return captured
        with torch.no_grad():
            activations = cut.forward_features(self.inputs.normalize(batch)).float()
            return activations, self.answers(cut.forward_head(activations)[0])

    @property
    def can_compile(self) -> bool:
        """Whether there is a trunk that a compiler could make faster than it is.

        In a type that the processor does not have OpenVINO would compute in another one.
        """
        traced = isinstance(self._cutter, Cutter) and not self.follows_weights
        return traced and self.device.type == "cpu" and computes_in(_DTYPES[self.precision])

    def portable_trunk(self) -> nn.Module:
        """That of its own cut, in float32, of PyTorch's own steps: what a compiler begins with."""
        assert isinstance(self._cutter, Cutter)  # noqa: S101 - see ``can_compile``
        return self._cutter.portable_trunk(self.layer)

    def example(self, rows: int) -> Tensor:
        """Fixed pictures as the network takes them, [rows, 3, H, W]; they come round."""
        return self._reference.example(rows)

    def check_trunk(self, what: str, trunk: Callable[[Tensor], Tensor], rows: int) -> None:
        """Check that another trunk gives the model's own logits for ``example(rows)``.

        Args:
            what: it is.
            trunk: in place of the one of the model's own cut.
            rows: of the batch.

        Raises:
            ModelCheckFailed: they differ by more than ``Reference.check`` allows.
        """
        self._reference.check(what, self._in_two(trunk, self.example(rows)))

    def check_program(self, kind: Kind, program: Callable[[Tensor], Tensor]) -> None:
        """As ``check_trunk``; where a program is for any number of rows, for an odd one as well."""
        for rows in (1,) if kind == "alone" else (1, _ODD):
            self.check_trunk(f"program {kind}", program, rows)

    def use(self, programs: Mapping[Kind, Callable[[Tensor], Tensor]], cores: Cores) -> None:
        """Let compiled programs compute what they were made for, from the next batch on.

        Args:
            programs: the trunk of the model's own cut; run here for the first time.
            cores: that they were made for.

        Raises:
            ModelCheckFailed: one of them does not give the model's logits; then nothing changes.
        """
        for kind, program in programs.items():
            self.check_program(kind, program)
        cut = self.cut()
        trunk = Compiled(programs, cores, lambda: cut.forward_features)
        with self._lock:
            self._cuts[()] = replace(cut, forward_features=trunk)

    def _begin_with(self, kept: Kept, first: Reference) -> CompileInfo:
        """Compute with kept programs, so that no trunk of its own is made; or say why not."""
        assert isinstance(self._cutter, Cutter)  # noqa: S101 - see ``can_compile``
        cut = partial(self._cutter.cut, self.layer)
        try:
            programs = kept.programs.result()
            trunk = Compiled(programs, kept.cores, lambda: cut().forward_features)
            self._cuts[()] = cut(trunk=trunk)
            for kind, program in programs.items():
                rows = 1 if kind == "alone" else kept.cores.drivers
                first.check(f"program {kind}", self._in_two(program, first.example(rows)))
        except Exception as exc:
            # Whatever is wrong with them, the model serves as it is.
            log.exception("%s cannot use what was compiled", kept.build)
            self._cuts.clear()
            return CompileInfo(state="failed", detail=f"{type(exc).__name__}: {exc}")
        return CompileInfo(state="ready", detail=str(kept.build))

    def answers(self, logits: Tensor) -> Tensor:
        """[N, classes] → these and the scores, [N, 2, classes]: one copy fetches both."""
        return torch.stack((logits, self.scores(logits)), dim=1)

    def _make_cut(self, *layers: str) -> Cut:
        try:
            cut = self._cutter.cut(*layers)
        except KeyError as exc:
            detail = f"{exc.args[0]!r} is no layer of this model that holds a map"
            raise InvalidOption.of("layer", detail) from exc
        if self.device.type == "cuda":
            # Its weights are there, whichever stream asks next.
            torch.cuda.current_stream(self.device).synchronize()
        return cut

    def _capture(self, name: str, rows: int) -> None:
        """Prepare the model's own cut; others, which callers choose, are launched kernel by kernel.

        An untraceable model has no trunk to prepare.
        """
        if not isinstance(self._cutter, Cutter):
            return
        cut, batch = self.cut(), self.inputs.examples()[:1]
        try:
            classifier = Captured(partial(self.classify, cut=cut), batch, rows)
            trunk = Captured(cut.forward_features, self.inputs.normalize(batch), rows, classifier)
        except RuntimeError as exc:
            torch.cuda.synchronize(self.device)  # raises where more than the capture is broken
            log.warning("%s is launched kernel by kernel, which is slower: %s", name, exc)
        else:
            self._cuts[()] = replace(cut, forward_features=trunk)
            self._classifier = classifier
            self._check_recording(self.inputs.examples()[:rows])

    def _check_recording(self, batch: Tensor) -> None:
        self.check_trunk("recording", self.cut().forward_features, len(batch))
        _, answers = self.classify(batch, self.cut())
        self._reference.check("recording", answers[:, 0])

    def _in_two(self, trunk: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Logits by a trunk and the head of the model's own cut: [N, 3, H, W] → [N, classes]."""
        with torch.no_grad():
            logits: Tensor = self.cut().forward_head(trunk(x).float())[0]
        return logits

    @cached_property
    def _reference(self) -> Reference:
        """It computes all of the model when it is first asked for."""
        return self._refer_to(self._examples())

    def _examples(self) -> Tensor:
        return self.inputs.normalize(self.inputs.examples())

    def _refer_to(self, pictures: Tensor) -> Reference:
        with torch.no_grad():
            return Reference(pictures, self.module(pictures), self.scores, self.precision)

    @property
    def _graph(self) -> fx.GraphModule:
        graph = self._cutter.module
        assert isinstance(graph, fx.GraphModule)  # noqa: S101 - ``provides`` says so
        return graph

    def _make_cutter(
        self, manifest: Manifest, example: Tensor, *, fused: bool
    ) -> Cutter | HookedCutter:
        dtype = _DTYPES[self.precision]
        if self.device.type == "cpu" and not computes_in(dtype):
            log.warning(
                "%s: this processor has no instructions for %s: fp32 is many times as fast here",
                manifest.name,
                self.precision,
            )
        try:
            return Cutter(self.module, example, fused=fused, dtype=dtype)
        except Untraceable as exc:
            if self.precision != "fp32":
                raise ModelCheckFailed(
                    f"{manifest.name}: precision: only fp32, for it cannot be traced"
                ) from exc
            log.info("%s is explained by hooks: %s", manifest.name, exc)
            return HookedCutter(self.module, example)

    def _layer(self, manifest: Manifest) -> str:
        if manifest.layer is None:
            return self._cutter.default
        try:
            return self._cutter.cut(manifest.layer).layer
        except KeyError as exc:
            raise ModelCheckFailed(
                f"{manifest.name}: layer {manifest.layer!r} is no layer that holds a map; there are"
                f" {', '.join(self._cutter.layers)}"
            ) from exc

    def _describe(self, manifest: Manifest, compiled: CompileInfo) -> ModelInfo:
        return ModelInfo(
            name=manifest.name,
            state="ready",
            description=manifest.description,
            family=manifest.family,
            architecture=manifest.architecture,
            version=manifest.version(),
            labels=self.labels,
            preprocess=self.preprocess,
            activation=self.activation,
            threshold=self.threshold,
            precision=self.precision,
            compile=compiled,
            traced=isinstance(self._cutter, Cutter),
            layer=self.layer,
            layers=tuple(
                LayerInfo(
                    name=name,
                    grid=(grid.height, grid.width),
                    aliases=self._cutter.aliases(name),
                )
                for name, grid in self._cutter.layers.items()
            ),
        )
