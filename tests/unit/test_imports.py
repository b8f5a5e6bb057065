"""What a process is made of: not looked through for garbage, and no more than it needs."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from app.imports import lasting
from tests.server import ROOT


class Module:
    """Stands for one; objects of a class are what the collector looks through."""


@pytest.fixture(autouse=True)
def thawed() -> object:
    yield
    gc.unfreeze()


def test_what_comes_in_while_it_lasts_is_no_longer_looked_through() -> None:
    with lasting():
        assert not gc.isenabled()
        module = Module()
    assert gc.isenabled()
    assert not any(known is module for known in gc.get_objects())


def test_the_collector_goes_on_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), lasting():
        raise ImportError
    assert gc.isenabled()


def test_a_worker_has_no_use_for_torch_s_compiler_whatever_it_is_asked_for() -> None:
    run_alone("""
import asyncio
from contextlib import suppress
from math import inf
import numpy as np
from app.engine.local import LocalEngine
from app.errors import InvalidOption
from app.explain.registry import every_info
from app.main import make_runner
from app.settings import Settings
from app.types import Job
runner, names = make_runner(Settings(models="shapes,shapes-vit"), "cpu", 2)
runner.load(names, lambda: None)
engine = LocalEngine(runner.run, runner.run_slowly, runner.catalogue)
models = [model for model in runner.catalogue().models if model.state == "ready"]
asked = set()
for model in models:
    pixels = np.zeros((*model.preprocess.crop, 3), np.uint8)
    for name in model.methods:
        info = every_info()[name]
        job = Job(model=model.name, version=model.version, pixels=pixels, deadline=inf,
                  classes=("top1",), methods=(name,), needs=tuple(info.needs),
                  slow=info.lane == "slow", budget=400)
        with suppress(InvalidOption):  # it does not suit the layer of one of them
            assert asyncio.run(engine.submit(job)).maps, name
            asked.add(name)
assert len(models) == 2 and asked == set(every_info())
assert "torch._dynamo" not in sys.modules, sys.modules["torch._dynamo"]
""")


def test_who_needs_torch_s_compiler_after_all_imports_it() -> None:
    run_alone("""
from app.imports import import_torchvision
import_torchvision()
import torch
from torchvision.ops import roi_align
pooled = roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), (2, 2))
assert pooled.tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
assert "torch._dynamo" not in sys.modules
asks = sys.modules["torchvision.ops.roi_align"].is_compile_supported
from torch._dynamo.utils import is_compile_supported
assert asks is not is_compile_supported
assert asks("cpu") == is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
""")


def test_a_torchvision_that_needs_all_of_the_compiler_has_it(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(
        "from torch._dynamo.utils import is_compile_supported\nimport torch._dynamo\n"
    )
    run_alone(f"""
sys.path.insert(0, {str(tmp_path)!r})
from app.imports import import_torchvision
import_torchvision()
import torch
import torchvision
assert torchvision.__file__.startswith({str(tmp_path)!r})
from torch._dynamo.utils import counters, is_compile_supported
assert torchvision.is_compile_supported("cpu") == is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
assert counters["frames"]["ok"]
""")


def run_alone(code: str) -> None:
    """In a process that has imported nothing yet."""
    subprocess.run([sys.executable, "-c", "import sys" + code], cwd=ROOT, check=True, timeout=300)
