"""A worker's turns on its device."""

import logging
import os

import pytest
import torch

from app.backbones.model import Model
from app.backbones.registry import Registry
from app.engine.device import Device
from tests.unit.conftest import make_manifest

CPU = torch.device("cpu")


class Ended(BaseException):
    """In place of the end of the process."""


def lose(*_: object) -> None:
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def end(status: int) -> None:
        found.append(status)
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    return found


def test_a_processor_has_one_batch_at_a_time_and_a_gpu_two() -> None:
    assert (Device(CPU).lanes, Device(torch.device("cuda:0")).lanes) == (1, 2)


def test_a_lost_device_ends_the_process_with_a_word_in_the_log(
    ends: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL), pytest.raises(Ended), Device(CPU).turn():
        lose()
    assert ends == [70]
    assert "the device cpu is lost" in caplog.text


def test_another_error_is_the_callers(ends: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), Device(CPU).turn():
        _ = 1 / 0
    with pytest.raises(torch.OutOfMemoryError), Device(CPU).turn():
        raise torch.OutOfMemoryError
    assert not ends


def test_a_device_that_is_lost_while_a_model_loads_is_not_the_models_state() -> None:
    registry = Registry({"m": make_manifest()}, CPU)

    def prepare(_model: Model) -> None:
        lose()

    with pytest.raises(torch.AcceleratorError):
        registry.load("m", prepare)
