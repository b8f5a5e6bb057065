"""One real server: what callers get, and what its processes are made of."""

import base64
import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from app.backbones.manifest import read_manifest
from app.backbones.model import Model
from tests.pictures import encode, make_picture, make_upload
from tests.server import TEST_MODELS, Server, serving, wait_for

Options = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serving") / "log"
    with serving(log, "--models", "tiny,wide", "--max-batch-size", "32") as running:
        yield running.wait_until_ready()


def test_the_children_are_told_to_keep_freed_memory(server: Server) -> None:
    for pid in (server.http_process(), *server.children("worker")):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert any(variable.startswith(b"MALLOC_TRIM_THRESHOLD_=") for variable in variables)


def explain(server: Server, upload: bytes, **options: object) -> dict[str, Any]:
    response = httpx.post(
        f"{server.url}/api/v1/explain",
        content=upload,
        params={name: str(value) for name, value in options.items()},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def grids(answer: dict[str, Any]) -> list[NDArray[Any]]:
    return [np.array(e["grid"]["values"], np.float32) for e in answer["explanations"]]


def assert_same_answer(one: dict[str, Any], other: dict[str, Any]) -> None:
    for a, b in zip(one["predictions"], other["predictions"], strict=True):
        assert (a["index"], a["label"]) == (b["index"], b["label"])
        assert a["logit"] == pytest.approx(b["logit"], abs=1e-5)
    for ours, theirs in zip(grids(one), grids(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(np.abs(theirs).max()), rtol=0)


def test_an_upload_becomes_scores_and_a_heatmap_in_its_own_geometry(server: Server) -> None:
    response = server.client.post(
        "/api/v1/explain", files={"image": ("photo.jpg", make_upload(300, 200))}
    )
    answer = response.json()
    assert len(answer["predictions"]) == 5
    (explanation,) = answer["explanations"]
    assert explanation["grid"]["shape"] == [3, 3]
    picture = Image.open(BytesIO(base64.b64decode(explanation["heatmap"]["base64"])))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (300, 200))
    assert "transparency" in picture.info


def test_gradcam_through_http_is_the_closed_form_of_pooling_and_a_linear_head(
    server: Server,
) -> None:
    model = Model(read_manifest(TEST_MODELS / "tiny.toml"), torch.device("cpu"))
    picture = make_picture(96, 96)  # of the model's own input size: nothing is resized
    with torch.no_grad():
        activations = model.cut().forward_features(model.inputs([np.asarray(picture)]))[0]
    weight = model.module.get_submodule("fc").weight
    assert isinstance(weight, torch.Tensor)
    answer = explain(server, encode(picture, "PNG"), classes="top12")
    assert len(answer["explanations"]) == 12
    for explanation, grid in zip(answer["explanations"], grids(answer), strict=True):
        row = weight[explanation["index"]]
        closed = torch.einsum("c,chw->hw", row, activations) / activations[0].numel()
        scale = float(closed.abs().max())
        np.testing.assert_allclose(grid, closed.numpy(), atol=1e-5 * scale, rtol=0)


def test_the_same_image_alone_or_among_31_others_gets_the_same_answer(server: Server) -> None:
    uploads = [make_upload(seed=seed) for seed in range(32)]
    alone = [explain(server, upload, classes="top2") for upload in uploads]
    batches, rows = (
        server.metric("camserve_batch_rows_count"),
        server.metric("camserve_batch_rows_sum"),
    )
    (worker,) = server.children("worker")
    os.kill(worker, signal.SIGSTOP)  # until all are there
    with ThreadPoolExecutor(32) as pool:
        requests = [pool.submit(explain, server, upload, classes="top2") for upload in uploads]
        wait_for(lambda: server.metric("camserve_in_flight") == 32)
        os.kill(worker, signal.SIGCONT)
        together = [request.result() for request in requests]
    assert server.metric("camserve_batch_rows_sum") - rows == 32
    assert server.metric("camserve_batch_rows_count") - batches < 16
    for one, other in zip(alone, together, strict=True):
        assert_same_answer(one, other)


def test_64_concurrent_uploads_of_mixed_models_and_options_are_all_correct(server: Server) -> None:
    wishes: list[Options] = [
        {"model": model, "classes": classes, "output": output, "view": view, "layer": layer}
        for (model, layer), classes, output, view in product(
            [("tiny", "conv5"), ("tiny", "stage4"), ("wide", "features"), ("wide", "features.11")],
            ["top1", "top3", "2,0", "class 1"],
            ["heatmap", "raw,overlay"],
            ["crop", "full"],
        )
    ]
    assert len(wishes) == 64
    uploads = [make_upload(100 + 3 * i, 160 - i, seed=i) for i in range(64)]
    expected = [explain(server, u, **w) for u, w in zip(uploads, wishes, strict=True)]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda pair: explain(server, pair[0], **pair[1]),
                                zip(uploads, wishes, strict=True)))  # fmt: skip
    for wish, one, other in zip(wishes, answers, expected, strict=True):
        assert one["model"]["name"] == wish["model"]
        assert {e["layer"] for e in one["explanations"]} == {wish["layer"]}
        assert ("heatmap" in one["explanations"][0]) == (wish["output"] == "heatmap")
        assert_same_answer(one, other)


@pytest.mark.parametrize("method", ["lime", "scorecam,gradcam"])
def test_a_method_of_many_passes_tells_how_far_it_is(server: Server, method: str) -> None:
    with server.client.stream(
        "POST",
        "/api/v1/explain",
        params={"method": method, "budget": 64, "classes": "top2"},
        content=make_upload(),
        headers={"Accept": "text/event-stream"},
    ) as response:
        text = "".join(response.iter_text())
    names = re.findall(r"^event: (\w+)$", text, re.MULTILINE)
    assert names.count("progress") >= 2
    assert names[-1] == "result"
    answer = json.loads(text.rpartition("data: ")[2])
    assert [e["method"] for e in answer["explanations"]] == [
        name for name in method.split(",") for _ in range(2)
    ]
    assert answer["explanations"][0]["flags"] == ["budget_exhausted"]


def test_processes_load_only_what_they_use_and_stay_small(server: Server) -> None:
    def loads(pid: int, library: str) -> bool:
        return library in Path(f"/proc/{pid}/maps").read_text()

    http, (worker,) = server.http_process(), server.children("worker")
    assert loads(worker, "libtorch")
    assert not loads(http, "libtorch")
    assert loads(http, "_imaging")  # Pillow
    assert not loads(server.process.pid, "libtorch")
    assert not loads(server.process.pid, "_imaging")
    status = Path(f"/proc/{http}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 200_000  # kB


def test_what_was_served_is_counted_for_all_processes_together(server: Server) -> None:
    answered = 'camserve_requests_total{route="/api/v1/explain",status="200"}'
    before = server.metric(answered)
    rows = server.metric("camserve_batch_rows_sum")
    explain(server, make_upload())
    assert server.metric(answered) == before + 1
    assert server.metric("camserve_batch_rows_sum") == rows + 1
    assert server.metric("camserve_model_ready") == 2


def test_a_killed_http_process_is_replaced_and_no_connection_is_refused(server: Server) -> None:
    first = server.http_process()
    os.kill(first, signal.SIGKILL)
    answer = explain(server, make_upload())  # waits in the parent's socket meanwhile
    assert len(answer["explanations"]) == 1
    assert server.http_process() != first
    wait_for(lambda: server.metric("camserve_process_restarts_total") >= 1)
