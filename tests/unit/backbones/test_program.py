"""What OpenVINO makes of a trunk: the same numbers, for any rows, from any thread."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from app.backbones import program as program_module
from app.backbones.cores import Cores, Kind
from app.backbones.model import Model
from app.backbones.program import Program, openvino, read
from tests.server import ROOT
from tests.unit.conftest import make_manifest

CORES = Cores(all=2, drivers=2)


# In a process of its own, as a worker has it done: what exporting imports stays for good.
CONVERT = """
import sys
from pathlib import Path
import torch
from app.backbones.model import Model
from app.backbones.program import convert
from tests.unit.backbones.test_program import Tokens, tokens
from tests.unit.conftest import make_manifest
model = Model(make_manifest(), torch.device("cpu"))
convert(model.portable_trunk(), model.example(2), Path(sys.argv[1], "trunk.xml"))
convert(Tokens(), tokens(), Path(sys.argv[1], "tokens.xml"))
"""


class Tokens(nn.Module):
    """A trunk whose value is no map: [N, 3, H, W] → [N, H · W, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2) * 2


def tokens() -> Tensor:
    x = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(make_manifest(), torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    subprocess.run([sys.executable, "-c", CONVERT, str(folder)], cwd=ROOT, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return folder / "trunk.xml"


@pytest.mark.parametrize(("kind", "sizes"), [("alone", (1,)), ("beside", (1, 2, 5, 8))])
def test_a_program_computes_what_the_trunk_does_in_its_layout(
    kind: Kind, sizes: tuple[int, ...], model: Model, file: Path
) -> None:
    program = Program(read(file), kind, "fp32", CORES)
    for rows in sizes:
        x = model.example(rows)
        value = program(x)
        torch.testing.assert_close(value, model.cut().forward_features(x), rtol=1e-4, atol=1e-5)
        assert value.is_contiguous(memory_format=torch.channels_last)


def test_tokens_come_out_as_they_are(folder: Path) -> None:
    program = Program(read(folder / "tokens.xml"), "beside", "fp32", CORES)
    assert torch.equal(program(tokens()), Tokens()(tokens()))


def test_more_threads_than_a_program_has_room_for_wait_for_one_another(
    model: Model, file: Path
) -> None:
    program = Program(read(file), "beside", "fp32", CORES)
    inputs = [torch.rand_like(model.example(2)) for _ in range(32)]
    expected = [program(x) for x in inputs]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            for value, wanted in zip(threads.map(program, inputs), expected, strict=True):
                assert torch.equal(value, wanted)  # nobody else's


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_rows_are_dealt_out_where_a_thread_has_several_shares(
    rows: int, model: Model, file: Path
) -> None:
    program = Program(read(file), "beside", "fp32", Cores(all=4, drivers=4))
    x = model.example(rows)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = program(x)
        torch.set_num_threads(4)
        with mock.patch.object(openvino(), "Tensor", wraps=openvino().Tensor) as given:
            found = [program(x)]
        assert given.call_count == {1: 1, 2: 2, 3: 3, 5: 3, 8: 4}[rows]
        with ThreadPoolExecutor(3) as threads:  # each of them would like to have all four
            found += threads.map(program, [x] * 30)
    finally:
        torch.set_num_threads(before)
    assert all(torch.allclose(value, whole, rtol=1e-5, atol=1e-6) for value in found)


def test_a_value_is_not_overwritten_by_the_next_batch(model: Model, file: Path) -> None:
    program = Program(read(file), "alone", "fp32", CORES)
    first = program(model.example(1))
    kept = first.clone()
    program(torch.zeros_like(model.example(1)))
    assert torch.equal(first, kept)


def test_a_program_that_failed_once_goes_on_with_other_requests(
    model: Model, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(read(file), "beside", "fp32", CORES)
    x = model.example(2)

    def fail(request: object) -> Tensor:
        failed.append(request)
        raise MemoryError

    failed: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(program_module, "_value", fail)
        with pytest.raises(MemoryError):
            program(x)
    left = [program._requests.get() for _ in range(CORES.drivers)]
    assert not any(request is one for request in failed for one in left)
    for request in left:
        program._requests.put(request)
    torch.testing.assert_close(program(x), model.cut().forward_features(x), rtol=1e-4, atol=1e-5)


def test_pages_that_were_let_go_are_there_for_whoever_wants_them(model: Model, file: Path) -> None:
    trunk = read(file)
    program = Program(trunk, "beside", "fp32", CORES)
    expected = program(model.example(3))
    assert pages_kb(file) > 0
    program.let_go()
    assert pages_kb(file) == 0
    assert torch.equal(program(model.example(3)), expected)
    other = Program(trunk, "alone", "fp32", CORES)
    torch.testing.assert_close(other(model.example(1)), expected[:1], rtol=1e-4, atol=1e-5)


def pages_kb(file: Path) -> int:
    """Of the weights beside a file, in memory."""
    maps = Path("/proc/self/smaps").read_text()
    found = re.findall(
        rf"{re.escape(str(file.with_suffix('.bin')))}\n.*?Rss:\s+(\d+)", maps, re.DOTALL
    )
    return sum(map(int, found))


def test_a_program_keeps_nothing_of_its_batches_in_memory(model: Model, file: Path) -> None:
    program = Program(read(file), "beside", "fp32", CORES)
    x = model.example(4)
    for _ in range(100):
        program(x)
    held = resident_mb()
    for _ in range(2000):
        program(x.clone())
    assert resident_mb() - held < 30  # the results are 130 MB, the pictures 390


def resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


def test_nothing_is_told_to_the_makers_of_openvino(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import torch

def listen(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "subprocess.Popen"}:
        print(event, args)

sys.addaudithook(listen)
from app.backbones.program import convert
convert(torch.nn.ReLU(), torch.ones(2, 3, 4, 4), Path(sys.argv[1]))
assert Path(sys.argv[1]).is_file()
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "x.xml")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
