"""Putting the processes together: devices, ports, logs, metrics."""

import json
import logging
import re
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from app.logs import request_id, set_up_logs
from app.main import api_settings
from app.metrics import Metrics, MetricsRegistry
from app.settings import Settings, admin_token
from tests.server import ROOT


def test_the_admin_token_is_no_setting_that_could_be_a_flag_or_be_dumped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "admin_token" not in Settings.model_fields
    for value, token in (("the-operator\n", "the-operator"), (" ", None)):
        monkeypatch.setenv("APP_ADMIN_TOKEN", value)
        assert admin_token() == token
        assert "the-operator" not in repr(api_settings(Settings()))
    monkeypatch.delenv("APP_ADMIN_TOKEN")
    assert admin_token() is None


def test_an_http_process_can_be_put_together_without_torch() -> None:
    code = (
        "import sys, app.main, app.api.application, app.api.server, app.engine.client;"
        "loaded = {'torch', 'torchvision'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_parent_can_be_put_together_without_torch_and_pillow() -> None:
    code = (
        "import sys, app.main, app.api.keys, app.backbones.manifest, app.engine.pool;"
        "loaded = {'torch', 'torchvision', 'PIL'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines_carry_the_id_of_their_request(
    log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    token = request_id.set("r-1")
    try:
        set_up_logs(log_format, "http-0")
        logging.getLogger("x").error("said", exc_info=ValueError("why"))
        line = capfd.readouterr().err
    finally:
        request_id.reset(token)
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "r-1" in line
    assert "said" in line
    assert "ValueError: why" in line
    if log_format == "json":
        told = json.loads(line)
        assert (told["request_id"], told["process"]) == ("r-1", "http-0")
        assert datetime.fromisoformat(told["time"]).utcoffset() == timedelta(0)


def test_events_of_other_processes_reach_the_page() -> None:
    registry = MetricsRegistry()

    def to_parent(line: dict[str, object]) -> None:
        events = json.loads(json.dumps(line))["events"]
        for name, value, labels in events:
            registry.add(name, value, labels)

    metrics = Metrics(to_parent)
    metrics.add(
        ("requests", 1, {"route": "/x", "status": "200"}),
        ("request_seconds", 0.02, {"route": "/x"}),
        ("in_flight", 3, {"process": "http-0"}),
    )
    metrics.add(("in_flight", 2, {"process": "http-0"}))
    page = registry.page()
    assert 'camserve_requests_total{route="/x",status="200"} 1.0' in page
    assert 'camserve_request_seconds_bucket{le="0.025",route="/x"} 1.0' in page
    assert 'camserve_in_flight{process="http-0"} 2.0' in page


def test_what_an_ended_process_told_of_itself_is_forgotten() -> None:
    registry = MetricsRegistry()
    for process in ("worker-0", "worker-1"):
        registry.add("model_ready", 1, {"model": "m", "process": process})
    registry.forget("worker-0")
    assert 'camserve_model_ready{model="m",process="worker-0"} 0.0' in registry.page()
    assert 'camserve_model_ready{model="m",process="worker-1"} 1.0' in registry.page()


def test_the_map_of_the_folders_names_every_room() -> None:
    (drawn,) = re.findall(r"```\n(app/.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    words = set(re.findall(r"\w+", drawn))
    for folder in ("app", "app/engine", "app/backbones"):
        modules = {file.stem for file in (ROOT / folder).glob("[a-z]*.py")}
        assert modules <= words, folder
