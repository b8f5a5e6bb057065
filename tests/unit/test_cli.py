"""The command line: the same path without HTTP, and errors of one line."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from app.backbones import compiling
from app.backbones.builds import Build
from app.backbones.manifest import find_manifest
from app.cli import main, settings_from
from app.cli_tune import _advise, _measure
from app.engine import tuning
from app.engine.device import Device
from app.engine.tuning import Measured
from app.machine import cores
from app.settings import Settings
from tests.pictures import make_upload
from tests.server import TEST_MODELS

if TYPE_CHECKING:
    from app.types import Precision


CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def with_test_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_MODELS_DIR", str(TEST_MODELS))
    monkeypatch.setenv("APP_MODELS", "tiny,wide")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(make_upload(150, 100))
    return tmp_path / "photo.jpg"


def assert_fails(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("name", "kind"), [("o.png", "PNG"), ("o.webp", "WEBP"), ("o.jpg", "JPEG")]
)
def test_explain_prints_scores_and_writes_an_overlay(
    name: str, kind: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", str(photo), "-o", str(tmp_path / name), "--top-k", "2"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "tiny (shufflenet_v2_x0_5)"
    assert [line.count("%") for line in printed[1:3]] == [1, 1]
    assert "gradcam of 'class" in printed[3]
    with Image.open(tmp_path / name) as picture:
        assert (picture.format, picture.size) == (kind, (150, 100))


def test_explain_takes_the_options_of_the_api(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", str(photo), "--model", "wide", "--classes", "1,class 2", "--view", "full"])
    printed = capsys.readouterr().out
    assert "wide (mobilenet_v3_small)" in printed
    assert "'class 1' at features" in printed
    assert "'class 2' at features" in printed


def test_explain_answers_the_questions_it_takes(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--region", "0,0,60,45", "--counterfactual", "true", "--check", "deletion")
    main(["explain", str(photo), *asked])
    printed = capsys.readouterr().out
    for word in ("region: ", "of the evidence", "without the region", "deletion: area"):
        assert word in printed


def test_explain_takes_methods_of_many_passes(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", str(photo), "--method", "occlusion,gradcam", "--budget", "16"])
    printed = capsys.readouterr().out
    assert "occlusion of" in printed
    assert "budget_exhausted" in printed
    assert "gradcam of" in printed


def test_a_wrong_option_is_one_line_that_names_it(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_fails(capsys, ["explain", str(photo), "--alpha", "2"], "alpha")
    assert_fails(capsys, ["explain", str(photo), "--classes", "99"], "classes", "99")
    assert_fails(capsys, ["explain", str(photo), "--model", "nobody"], "nobody")
    assert_fails(capsys, ["explain", str(photo), "-o", "overlay.tiff"], "format")


def test_a_wrong_picture_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fails(capsys, ["explain", str(tmp_path / "gone.jpg")], "gone.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    assert_fails(capsys, ["explain", str(tmp_path / "text.jpg")], "JPEG, PNG")


def test_a_place_that_cannot_be_written_to_is_one_line(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_fails(capsys, ["explain", str(photo), "-o", "/nowhere/overlay.png"], "/nowhere")


def test_several_maps_do_not_fit_one_file(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["explain", str(photo), "--classes", "top2", "-o", "overlay.png"]
    assert_fails(capsys, arguments, "one class")


def test_evaluate_writes_a_table_json_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(make_upload(150, 100))
    Image.new("L", (150, 100), 255).save(tmp_path / "a.mask.png")
    arguments = ["--models", "tiny", "--methods", "gradcam,hirescam", "--out", str(tmp_path / "o")]
    main(["evaluate", str(tmp_path), *arguments])
    printed = capsys.readouterr().out
    assert printed.count("| tiny |") == 2
    assert (tmp_path / "o" / "evaluation.md").read_text() == printed
    assert len(json.loads((tmp_path / "o" / "evaluation.json").read_text())) == 2
    with Image.open(tmp_path / "o" / "evaluation.png") as plot:
        assert plot.width > 100


def test_sanity_prints_a_row_for_each_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.jpg").write_bytes(make_upload(150, 100))
    (tmp_path / "samples" / "samples.toml").write_text('[[sample]]\nfile = "a.jpg"\n')
    (tmp_path / "tiny.toml").write_text((TEST_MODELS / "tiny.toml").read_text())
    monkeypatch.setenv("APP_MODELS_DIR", str(tmp_path))
    main(["sanity", "tiny", "--methods", "gradcam,saliency"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["`gradcam`", "`saliency`"]


def test_what_cannot_be_evaluated_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert_fails(capsys, ["evaluate", "--models", "tiny"], "tiny", "folder")
    assert_fails(capsys, ["sanity", "nobody"], "nobody")
    assert_fails(capsys, ["sanity", "tiny", "--methods", "chefer"], "chefer", "not for tiny")
    assert_fails(capsys, ["sanity", "tiny"], "samples")


def test_tune_prints_the_times_and_the_settings_of_what_a_worker_would_compile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["tune", "tiny", "--seconds", "0"])
    printed = capsys.readouterr().out
    assert re.search(r"fp32  compiled, times as fast: .*beside \d", printed)
    assert printed.count("images/s") >= 6
    assert "APP_MAX_BATCH_SIZE=" in printed
    monkeypatch.setenv("APP_COMPILE", "off")
    main(["tune", "tiny", "--seconds", "0", "--latency", "0.001"])
    printed = capsys.readouterr().out
    assert "fp32  nothing compiled" in printed
    assert "No batch is done within 0.001 ms." in printed
    assert_fails(capsys, ["tune", "nobody"], "no manifest named 'nobody'")


def test_what_is_measured_has_all_cores_again_once_it_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_model(*_arguments: object) -> Build:
        torch.set_num_threads(1)  # as the real one does, where a batch's share is one core
        return Build(error="this one is not for it")

    monkeypatch.setattr(compiling, "compile_model", compile_model)
    found: list[int] = []
    monkeypatch.setattr(tuning, "measure", lambda _model, **_: found.append(Device(CPU).cores))
    told, _ = _measure(Settings(), find_manifest(TEST_MODELS, "tiny"), "fp32", 3)
    assert (told, found) == ("this one is not for it", [cores()])


@pytest.mark.parametrize(
    ("latency", "advised"),
    [(None, ["fp32", "bf16"]), (50, ["bf16"]), (10, [])],
    ids=["both", "the faster one alone", "neither"],
)
def test_tune_advises_the_precision_that_is_faster(
    latency: float | None, advised: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[Precision, list[Measured]] = {
        "fp32": [Measured("fp32", 1, 60, 30)], "bf16": [Measured("bf16", 2, 40, 90)],
    }  # fmt: skip
    _advise(found, latency)
    printed = capsys.readouterr().out
    assert re.findall(r"APP_PRECISION=(\w+)", printed) == advised
    assert ("3.00 times" in printed) == (len(advised) == 2)
    assert ("No batch" in printed) == (not advised)


def test_models_lists_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["tiny", "wide"]


def test_flags_win_over_the_environment() -> None:
    assert settings_from([]).models == ("tiny", "wide")
    settings = settings_from(["--models", "wide,tiny", "--max-wait-ms", "3"])
    assert settings.models == ("wide", "tiny")
    assert settings.start_model == "wide"
    assert settings.max_wait_ms == 3


def test_a_wrong_setting_is_one_line_with_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_MODELS", " , ")
    assert_fails(capsys, ["models"], "APP_MODELS")


def test_the_version_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network of three classes, saved from within DataParallel."""
    torch.manual_seed(0)
    net = nn.DataParallel(models.resnet18(num_classes=3))
    torch.save(net.state_dict(), tmp_path / "my net.v1.pth")
    return tmp_path / "my net.v1.pth"


def test_a_checkpoint_becomes_a_model_that_explains(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("APP_MODELS_DIR", str(folder))
    (tmp_path / "l.txt").write_text("cat\ndog\nbird\n")
    main(["models", "init", str(checkpoint), "--labels", str(tmp_path / "l.txt")])
    assert "guessed resnet18 with 3 classes" in capsys.readouterr().out
    main(["models", "check", "my-net-v1", "--image", str(photo), "-o", str(tmp_path / "o.png")])
    told = capsys.readouterr().out
    assert "cut at layer4, a map of 7x7 cells" in told
    with Image.open(tmp_path / "o.png") as overlay:
        assert overlay.format == "PNG"
    main(["explain", str(photo), "--model", "my-net-v1"])
    assert {"cat", "dog", "bird"} <= set(capsys.readouterr().out.split())
    assert_fails(capsys, ["models", "init", str(checkpoint)], "exists", "--name")
    check = ["models", "check", "my-net-v1"]
    assert_fails(capsys, check, "no samples", "--image")
    assert_fails(capsys, [*check, "--image", str(tmp_path / "no.jpg")], "no.jpg", "No such file")
    assert_fails(capsys, [*check, "--image", str(photo), "-o", "/nowhere/o.png"], "/nowhere")


def test_pull_says_that_the_weights_are_here(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "pull", "tiny"])
    assert "tiny: the weights are here" in capsys.readouterr().out
    assert_fails(capsys, ["models", "pull", "none"], "no manifest named 'none'", "tiny")


def test_init_says_what_is_wrong_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pth").write_bytes(b"no")
    assert_fails(capsys, ["models", "init", str(tmp_path / "a.pth")], "a.pth", "damaged")
    assert_fails(capsys, ["models", "init", str(tmp_path / "b.pth")], "cannot read b.pth")
