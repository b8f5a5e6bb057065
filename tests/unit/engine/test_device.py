"""A worker's turns on its device."""

import logging
import os
from threading import Thread

import pytest
import torch

from app.engine.device import Device
from app.engine.sharing import SharedCores, WholeDevice

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


def test_batches_share_the_cores_of_a_processor_and_each_has_all_of_a_gpu() -> None:
    assert isinstance(Device(CPU).sharing(4), SharedCores)
    assert isinstance(Device(torch.device("cuda:0")).sharing(4), WholeDevice)


def test_a_thread_uses_the_cores_it_is_told_to_and_all_unless_told() -> None:
    device, found = Device(CPU), []
    most = torch.get_num_threads()

    def work() -> None:
        for count in (1, None):
            device.use_cores(count)
            found.append(torch.get_num_threads())

    thread = Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == [1, most]


def test_a_lost_device_ends_the_process_with_a_word_in_the_log(
    ends: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lose)
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


def test_an_error_that_the_device_has_got_over_is_the_callers(
    ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    with pytest.raises(torch.AcceleratorError), Device(CPU).turn():
        lose()
    assert not ends
