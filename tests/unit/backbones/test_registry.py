"""Models that are replaced and unloaded while others wait for them."""

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.backbones import memory
from app.backbones import registry as registry_module
from app.backbones.manifest import Manifest
from app.backbones.model import Model
from app.backbones.registry import Registry
from app.errors import LoadFailed, ModelReplaced, NotEnoughMemory
from tests.unit.conftest import make_manifest

CPU = torch.device("cpu")


def ready(_model: Model) -> None:
    """Nothing to prepare."""


@pytest.fixture
def registry() -> Registry:
    registry = Registry({"m": make_manifest()}, CPU)
    assert registry.load("m", ready) is None
    return registry


def version(registry: Registry) -> str:
    (info,) = registry.models()
    assert info.state == "ready"
    return str(info.version)


def renew(registry: Registry, manifest: Manifest) -> None:
    registry.enlist(manifest, "loading")
    assert registry.load("m", ready) is None


def test_a_new_version_is_served_and_the_old_one_kept_until_it_is_released(
    registry: Registry,
) -> None:
    old = version(registry)
    model = weakref.ref(registry.get("m", old))
    renew(registry, make_manifest(seed=1))
    assert version(registry) != old
    assert registry.retired() == [("m", old)]
    assert registry.get("m", old) is model()
    registry.release("m", old)
    registry.release("m", old)  # no harm
    with pytest.raises(ModelReplaced):
        registry.get("m", old)
    assert model() is None, "its memory is not given back"
    assert registry.get("m", version(registry)).info.name == "m"


def test_a_version_that_comes_back_before_it_is_released_is_served(registry: Registry) -> None:
    first = version(registry)
    renew(registry, make_manifest(seed=1))
    second = version(registry)
    renew(registry, make_manifest(seed=0))
    assert version(registry) == first
    assert registry.retired() == [("m", second)]
    for name, retired in registry.retired():
        registry.release(name, retired)
    assert registry.get("m", first).info.name == "m"
    with pytest.raises(ModelReplaced):
        registry.get("m", second)


def test_a_version_that_is_served_is_not_loaded_again(registry: Registry) -> None:
    model = registry.get("m", version(registry))
    renew(registry, make_manifest())
    assert registry.get("m", version(registry)) is model


def test_a_version_that_fails_leaves_the_old_one_serving_and_says_why(registry: Registry) -> None:
    old = version(registry)
    registry.enlist(make_manifest(layer="nowhere"), "loading")
    error = registry.load("m", ready)
    assert isinstance(error, LoadFailed)
    assert "nowhere" in error.detail
    assert version(registry) == old
    assert registry.models()[0].error == error.detail
    assert registry.get("m", old).info.name == "m"
    renew(registry, make_manifest())  # as it was: nothing is wrong any more
    assert registry.models()[0].error is None


def test_an_unloaded_model_is_listed_and_kept_until_it_is_released(registry: Registry) -> None:
    old = version(registry)
    registry.unload("m")
    assert [(m.name, m.state) for m in registry.models()] == [("m", "unloaded")]
    assert registry.get("m", old).info.name == "m"
    registry.release("m", old)
    with pytest.raises(ModelReplaced):
        registry.get("m", old)
    registry.unload("m")  # again: no harm
    renew(registry, make_manifest())
    assert version(registry) == old


def test_a_model_whose_manifest_is_gone_is_no_longer_listed(registry: Registry) -> None:
    registry.forget("m")
    assert registry.models() == ()
    registry.unload("nobody")
    assert registry.models() == ()


def test_a_new_manifest_is_listed_as_not_loaded(registry: Registry) -> None:
    registry.enlist(make_manifest(name="new"))
    assert [(m.name, m.state) for m in registry.models()] == [("m", "ready"), ("new", "unloaded")]


def assert_refused(registry: Registry, prepare: Callable[[Model], None], numbers: str) -> None:
    """Another version has no room; the one that is served stays."""
    old = version(registry)
    registry.enlist(make_manifest(seed=1))
    error = registry.load("m", prepare)
    assert isinstance(error, NotEnoughMemory)
    assert numbers in error.detail
    assert version(registry) == old


def test_weights_that_are_larger_than_the_memory_are_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    (tmp_path / "w.safetensors").write_bytes(bytes(2_000_000))
    manifest = make_manifest(tmp_path, weights="w.safetensors", sha256="0" * 64)
    registry = Registry({"m": manifest}, CPU)
    error = registry.load("m", ready)
    assert isinstance(error, NotEnoughMemory)
    assert "8 MB" in error.detail
    assert "1 MB" in error.detail
    meminfo.unlink()  # no such file on this system: it is tried
    assert isinstance(registry.load("m", ready), LoadFailed)


def test_a_warm_model_that_leaves_no_room_for_requests_is_refused(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    meminfo.write_text("MemAvailable:  9000000 kB\n")

    def fill(_model: Model) -> None:
        meminfo.write_text("MemAvailable:  200000 kB\n")

    assert_refused(registry, fill, "leaves 205 MB on cpu; 256 MB must stay free")


def test_a_container_has_what_its_own_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4500000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
    (tmp_path / "w.safetensors").write_bytes(bytes(1_000_000))
    manifest = make_manifest(tmp_path, weights="w.safetensors", sha256="0" * 64)
    with pytest.raises(NotEnoughMemory, match="takes 4 MB, and 2 MB are free"):
        memory.check_fits(manifest)
    (tmp_path / "memory.max").write_text("max\n")
    memory.check_fits(manifest)


def test_what_a_model_took_is_told(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(memory, "_STATUS", status)
    status.write_text("Name:  worker\nVmRSS:  1000 kB\n")

    def grow(_model: Model) -> None:
        status.write_text("Name:  worker\nVmRSS:  5000 kB\n")

    registry.enlist(make_manifest(seed=1))
    assert registry.load("m", grow) is None
    (info,) = registry.models()
    assert info.memory_bytes == 4000 * 1024


def test_what_loading_leaves_behind_is_given_back_and_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(memory, "_STATUS", status)
    status.write_text("Name:  worker\nVmRSS:  1000 kB\n")

    def grow(_model: Model) -> None:
        status.write_text("Name:  worker\nVmRSS:  9000 kB\n")

    def shrink(_device: torch.device) -> None:
        status.write_text("Name:  worker\nVmRSS:  3000 kB\n")

    monkeypatch.setattr(registry_module, "give_back", shrink)
    registry = Registry({"m": make_manifest()}, CPU)
    assert registry.load("m", grow) is None
    assert registry.models()[0].memory_bytes == 2000 * 1024


def test_a_model_that_a_gpu_has_no_room_for_is_refused_with_the_numbers(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2_000_000, 8_000_000))

    def exhaust(_model: Model) -> None:
        raise torch.OutOfMemoryError

    assert_refused(registry, exhaust, "2 MB of 8 MB")
