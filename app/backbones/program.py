"""A trunk as OpenVINO runs it: each layer is prepared once, and called without Python.

The layers are oneDNN's, as those of the fused trunk are; what PyTorch looks up and allocates around
each call, half a millisecond of a ResNet-50's, is done beforehand here.
"""

import mmap
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from app.backbones.cores import Cores, Kind
from app.types import Precision

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_WARM_S = 1.0
_PAUSE = 3  # times as long as what it follows
_MAP_NDIM = 4  # [N, C, H, W]; tokens have one dimension less


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """What programs are made of: a network as OpenVINO has it, its weights the pages of a file."""

    network: Any
    pages: mmap.mmap


class Program:
    """A trunk for any thread, without gradients.

    There are two kinds, as oneDNN wants another layout of the weights where several cores share a
    row: one row ``alone`` by all cores, and any number of rows by the share that a batch has
    ``beside`` others.

    Args:
        trunk: as ``read`` gives it; its weights are in memory once for all programs.
        kind: of them.
        precision: in which its layers compute.
        cores: of the worker.

    Raises:
        RuntimeError: OpenVINO does not take it.
    """

    def __init__(self, trunk: Trunk, kind: Kind, precision: Precision, cores: Cores) -> None:
        model = trunk.network.clone()
        alone = kind == "alone"
        if alone:
            model.reshape([1, *model.input(0).partial_shape[1:]])
        at_once = 1 if alone else cores.drivers
        options = {
            "NUM_STREAMS": at_once,
            "INFERENCE_NUM_THREADS": cores.all if alone else at_once * cores.share,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "ENABLE_HYPER_THREADING": True,  # the operator counted the cores, not OpenVINO
            "ENABLE_CPU_PINNING": False,  # others use them, too
        }
        self._pages = trunk.pages  # OpenVINO reads them, and does not hold them
        self._compiled = openvino().Core().compile_model(model, "CPU", options)
        self._row = [size.get_length() for size in self._compiled.input(0).partial_shape[1:]]
        self._most = 1 if alone else None
        self._at_once = at_once
        self._share = cores.all if alone else cores.share
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(at_once):
            self._requests.put(self._compiled.create_infer_request())

    def __call__(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], float32 and channels last → the trunk's value, in float32.

        Where the thread that calls may use more cores than a share, rows are dealt out to several.
        """
        return self._run(x, parts=max(1, torch.get_num_threads() // self._share))

    def warm_up(self, max_rows: int) -> None:
        """Run batches of every size, from one row on, until a second is over.

        A size that is new to it takes some 25 ms more, which a request would wait for: much of a
        light network's time, little of a heavy one's. Each is followed by a longer pause, for
        others want the cores, too.

        Args:
            max_rows: of its largest batch.
        """
        left = _WARM_S
        for rows in range(1, (self._most or max_rows) + 1):
            for _ in range(self._at_once):  # each of them prepares for itself
                began = time.monotonic()
                self._run(torch.zeros(rows, *self._row).permute(0, 3, 1, 2), parts=1)
                took = time.monotonic() - began
                left -= took
                time.sleep(_PAUSE * took)
            if left < 0:
                break

    def let_go(self) -> None:
        """Of the file's pages, once it has run: it has copies; who wants one again gets it."""
        self._pages.madvise(mmap.MADV_DONTNEED)

    def _run(self, x: Tensor, parts: int) -> Tensor:
        with self._taken(min(parts, len(x))) as requests:
            pictures = x.permute(0, 2, 3, 1).chunk(len(requests))
            for request, rows in zip(requests, pictures, strict=False):
                request.start_async({0: openvino().Tensor(rows.numpy(), shared_memory=True)})
            values = [_value(request) for request, _ in zip(requests, pictures, strict=False)]
        value = values[0] if len(values) == 1 else torch.cat(values)
        return value.permute(0, 3, 1, 2) if value.ndim == _MAP_NDIM else value

    @contextmanager
    def _taken(self, most: int) -> Iterator[list[Any]]:
        """One request when there is one, and more where nobody has them now."""
        requests = [self._requests.get()]
        try:
            with suppress(Empty):
                while len(requests) < most:
                    requests.append(self._requests.get_nowait())
            yield requests
        except Exception:
            # One may still compute: it is let go, not handed to the next batch.
            requests = [self._compiled.create_infer_request() for _ in requests]
            raise
        finally:
            for request in requests:
                self._requests.put(request)


def _value(request: Any) -> Tensor:  # noqa: ANN401 - OpenVINO has no types
    """Of a request that was started, once it is there."""
    request.wait()
    return torch.from_numpy(request.get_output_tensor(0).data).clone()


def load(
    file: Path, kinds: Iterable[Kind], precision: Precision, cores: Cores
) -> dict[Kind, Program]:
    """Programs of a trunk that ``convert`` wrote.

    Args:
        file: as ``convert`` was told.
        kinds: of them.
        precision: in which their layers compute.
        cores: of the worker.

    Raises:
        OSError: the file cannot be read.
        RuntimeError: OpenVINO does not take it.
    """
    trunk = read(file)
    return {kind: Program(trunk, kind, precision, cores) for kind in kinds}


def load_warm(
    file: Path, kinds: Iterable[Kind], precision: Precision, cores: Cores, max_rows: int
) -> dict[Kind, Program]:
    """As ``load``; no batch of up to ``max_rows`` rows is new to them.

    Raises:
        OSError: the file cannot be read.
        RuntimeError: OpenVINO does not take it.
    """
    programs = load(file, kinds, precision, cores)
    for program in programs.values():
        program.warm_up(max_rows)
        program.let_go()
    return programs


def read(file: Path) -> Trunk:
    """A trunk that ``convert`` wrote.

    Raises:
        OSError: it cannot be read.
        RuntimeError: OpenVINO does not take it.
    """
    with file.with_suffix(".bin").open("rb") as weights:
        pages = mmap.mmap(weights.fileno(), 0, access=mmap.ACCESS_COPY)  # it wants to be allowed to
    tensor = openvino().Tensor(np.frombuffer(pages, np.uint8), shared_memory=True)
    return Trunk(openvino().Core().read_model(file.read_text("utf-8"), tensor), pages)


def convert(trunk: nn.Module, x: Tensor, file: Path) -> None:
    """Write a trunk as OpenVINO reads it, for any number of rows.

    Args:
        trunk: of PyTorch's own steps, in float32, its parameters frozen.
        x: an input, [N, 3, H, W], channels last, of more than one row.
        file: ``….xml``; the weights go beside it.

    Raises:
        Exception: whatever PyTorch's exporter or OpenVINO raises.
    """
    rows = torch.export.Dim("rows", min=1)
    last = x.permute(0, 2, 3, 1)
    with torch.no_grad():
        exported = torch.export.export(_ChannelsLast(trunk), (last,), dynamic_shapes=({0: rows},))
    model = openvino().convert_model(exported)
    model.reshape([-1, *last.shape[1:]])
    openvino().save_model(model, file, compress_to_fp16=False)


class _ChannelsLast(nn.Module):
    """A trunk between layouts that no step has to change."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.trunk(x.permute(0, 3, 1, 2))
        return value.permute(0, 2, 3, 1) if value.ndim == _MAP_NDIM else value


@cache
def openvino() -> Any:  # noqa: ANN401 - a module without types
    """The library. It is imported when it is first needed, which takes a third of a second.

    Raises:
        ImportError: it is not installed.
    """
    # Its makers' counter of imports and conversions, which asks a server of Google's: without the
    # package OpenVINO counts nothing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino as library

    return library


def openvino_version() -> str:
    """Of the library; it is not imported.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return version("openvino")
