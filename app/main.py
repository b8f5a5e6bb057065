"""The map of the program: four kinds of process, each put together here and nowhere else.

    serve          the parent: starts, watches and restarts the others
    ├─ http        reads, decodes, renders, answers; never imports torch
    └─ worker      one a device: models, batches, numbers
       └─ compiler prepares one model's trunk for speed, and ends

Imports stand where they are needed: a process loads what it uses, and an http process no torch.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.engine.control import BlockingControl, Control, Line
from app.engine.environment import has_openvino
from app.engine.listening import listen, own_listener
from app.errors import SetupError
from app.imports import import_torchvision, lasting
from app.logs import set_up_logs
from app.machine import cores, find_devices, find_http_processes, share_of_cores
from app.metrics import GatheredMetrics, Metrics
from app.settings import Settings, admin_token

if TYPE_CHECKING:
    from app.api.application import ApiSettings
    from app.api.server import HttpServer
    from app.backbones.builds import Build
    from app.backbones.manifest import Manifest
    from app.backbones.registry import Registry
    from app.engine.client import EngineClient
    from app.engine.compiler import Compiler
    from app.engine.loader import Loader
    from app.engine.runner import Runner
    from app.engine.worker import Worker
    from app.service import Engine, Service

log = logging.getLogger(__name__)

_HEAR_S = 1.0
_STUCK = 71  # exit status


def serve(settings: Settings) -> None:
    """The parent: run the service until a signal ends it.

    Raises:
        SetupError: it cannot start; the message says why.
    """
    from app.api.keys import read_keys
    from app.backbones.manifest import read_manifests
    from app.engine.pool import Pool

    set_up_logs(settings.log_format, "parent")
    manifests = read_manifests(settings.models_dir)
    read_keys(settings.api_keys_file)
    if settings.compile == "on" and not has_openvino():
        raise SetupError("APP_COMPILE=on: OpenVINO is not installed (pip install openvino)")
    devices = find_devices(settings.devices)
    processes = find_http_processes(settings.http_processes, devices)
    listeners = listen(settings.host, settings.port, processes)
    log.info("camserve on http://%s:%d", *listeners[0].getsockname()[:2])
    asyncio.run(Pool(settings, manifests, devices, listeners).run())


def run_child(role: str, descriptor: int) -> None:
    """A child of the pool: run until told to end, or until the pipe to the parent closes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the parent alone decides
    end = socket.socket(fileno=descriptor)
    if role == "worker":
        worker_process(BlockingControl(end))
    elif role == "compiler":
        compiler_process(BlockingControl(end))
    else:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(http_process(end))


async def http_process(end: socket.socket) -> None:
    """An http process: uvicorn around the API, the service behind it, workers behind that."""
    with lasting():
        from app.api.application import create_app
        from app.api.server import HttpServer
        from app.engine.client import EngineClient

    control = await Control.open(end)
    lines = control.lines()
    start = await anext(lines, None)
    if start is None:
        return
    listener = own_listener(start["listeners"], start["number"])
    settings = Settings.model_validate(start["settings"])
    set_up_logs(settings.log_format, start["name"])
    metrics = GatheredMetrics(control.send, asyncio.get_running_loop().call_later)
    engine = EngineClient(
        on_change=lambda n: metrics.add(("in_flight", n, {"process": start["name"]})),
    )
    engine.use(start["endpoints"])
    await engine.heard(_HEAR_S)  # connections may wait already: they need to know the models
    server = HttpServer(control.send, settings.grace_s, draining=start["draining"])

    async def scrape() -> str:
        metrics.flush()  # this process's own are all on the page
        return await server.scrape()

    api = create_app(
        make_service(engine, settings, share_of_cores(len(start["listeners"]))),
        metrics,
        api_settings(settings),
        is_draining=lambda: server.draining,
        scrape=scrape,
        manage=server.manage,
    )
    serving = asyncio.create_task(server.serve(api, listener))
    alive = asyncio.create_task(_tell_alive(control, settings.hang_s / 4))
    serving.add_done_callback(lambda _: metrics.flush())
    serving.add_done_callback(lambda _: control.close())  # then ``lines`` ends too
    await _obey(lines, engine, server)
    server.stop()
    await serving
    alive.cancel()
    await engine.close()


async def _tell_alive(control: Control, seconds: float) -> None:
    """A process whose event loop hangs is ended: callers wait at its socket."""
    while True:
        control.send({"kind": "alive"})
        await asyncio.sleep(seconds)


async def _obey(lines: AsyncIterator[Line], engine: "EngineClient", server: "HttpServer") -> None:
    """Follow the parent until it says stop, or is gone."""
    async for line in lines:
        if line["kind"] == "stop":
            return
        if line["kind"] == "workers":
            engine.use(line["endpoints"])
        else:
            server.take(line)


def api_settings(settings: Settings) -> "ApiSettings":
    """What the HTTP side must know."""
    from app.api.application import ApiSettings
    from app.api.keys import read_keys

    return ApiSettings(
        start_models=settings.models,
        samples_dir=settings.models_dir / "samples",
        max_body_bytes=settings.max_body_bytes,
        max_held_bytes=settings.max_held_bytes,
        receive_timeout_s=settings.receive_timeout_s,
        cache_bytes=settings.cache_mb * 1_000_000,
        cors_origins=settings.cors_origins,
        keys=read_keys(settings.api_keys_file),
        admin_token=admin_token(),
    )


def make_service(engine: "Engine", settings: Settings, threads: int) -> "Service":
    """The use case over an engine, with so many threads for pictures."""
    from concurrent.futures import ThreadPoolExecutor

    from app.admission import Admission
    from app.order import RequestLimits
    from app.service import Service

    return Service(
        engine,
        ThreadPoolExecutor(threads, "pictures"),
        RequestLimits(
            max_pixels=settings.max_pixels,
            max_maps=settings.max_maps,
            max_picture_pixels=settings.max_picture_pixels,
            max_budget=settings.max_budget,
            deadline_s=settings.deadline_s,
            slow_deadline_s=settings.slow_deadline_s,
        ),
        Admission(settings.max_queue),
        settings.start_model,
    )


def local_service(settings: Settings) -> "Service":
    """The use case without processes, for the command line: the models live in this one."""
    from app.engine.local import LocalEngine

    device = find_devices(settings.devices)[0]
    runner, names = make_runner(settings, device, cores())
    runner.load(names, lambda: None)
    engine = LocalEngine(runner.run, runner.run_slowly, runner.catalogue)
    return make_service(engine, settings, cores())


def worker_process(control: BlockingControl) -> None:
    """A worker process: connections and a queue in front of one device's models."""
    from threading import Thread

    with lasting():
        import_torchvision()
        from app.backbones.manifest import Manifest
        from app.engine.batching import BatchQueue
        from app.engine.loader import Loader
        from app.engine.runner import Runner
        from app.engine.worker import Worker

    start = control.receive()
    if start is None:
        return
    settings = Settings.model_validate(start["settings"])
    name = start["name"]
    set_up_logs(settings.log_format, name)
    metrics = Metrics(control.send)
    manifests = [Manifest.model_validate(line) for line in start["manifests"]]
    registry = make_registry(
        settings, {m.name: m for m in manifests}, start["device"], start["threads"]
    )
    compiles = settings.compile != "off" and registry.device.type == "cpu"
    runner = Runner(registry, settings.max_batch_size, compiles=compiles)
    names = registry.expect(start["models"])
    queue = BatchQueue(runner.sharing, settings.max_wait_ms / 1e3)
    worker = Worker(
        runner.run, runner.run_slowly, runner.catalogue, queue, metrics,
        runner.sharing.drivers, runner.device.use_cores,
    )  # fmt: skip
    worker.start(_listen_local(start["endpoint"]))
    control.send({"kind": "listening", "endpoint": start["endpoint"]})
    announce = _announcer(worker, runner, metrics, name, start["models"])

    def on_change() -> None:
        if compiler and loader.has_started:  # not before: whoever waits for models needs the cores
            compiler.follow()
        announce()

    loader = Loader(registry, runner, queue, on_change, control.send)
    compiler = make_compiler(settings, registry, runner, announce, loader) if compiles else None
    loader.start(names)
    listening = Thread(target=loader.listen, args=(control.lines(),), daemon=True)
    listening.start()
    while listening.is_alive():  # until the pipe closes
        _end_if_stuck(worker, settings.hang_s)
        control.send({"kind": "alive"})
        listening.join(settings.hang_s / 4)


def _end_if_stuck(worker: "Worker", seconds: float) -> None:
    """The parent then starts another one."""
    if worker.is_stuck(seconds):
        log.critical("a batch takes over %g s, or none is read: this process ends", seconds)
        os._exit(_STUCK)


def make_compiler(
    settings: Settings,
    registry: "Registry",
    runner: "Runner",
    on_change: Callable[[], None],
    loader: "Loader",
) -> "Compiler":
    """What has a worker's models compiled; they use it while none is loaded."""
    from app.engine.compiler import Child, Compiler

    def adopt(name: str, version: str, place: Path, build: "Build") -> None:
        loader.do(partial(runner.adopt, name, version, place, build))

    cores, max_rows = runner.cores, runner.sharing.max_rows
    child = Child(settings.model_dump(mode="json"), cores, max_rows)
    compiler = Compiler(registry, child, cores, max_rows, adopt, on_change)
    compiler.start()
    return compiler


def compiler_process(control: BlockingControl) -> None:
    """A child of a worker that compiles one model, and ends."""
    from app.engine.background import end_with, process_gives_way

    start = control.receive()
    if start is None:
        return
    end_with(control)
    process_gives_way()
    # These take seconds: not before others go first.
    from app.backbones.compiling import compile_model
    from app.backbones.cores import Cores
    from app.backbones.manifest import Manifest
    from app.backbones.model import Loading

    settings = Settings.model_validate(start["settings"])
    set_up_logs(settings.log_format, start["name"])
    build = compile_model(
        Manifest.model_validate(start["manifest"]),
        Loading.by(settings),
        Path(start["folder"]),
        Cores(start["threads"], start["drivers"]),
        start["max_rows"],
    )
    control.send({"kind": "built", "build": build.model_dump(mode="json")})


def _announcer(
    worker: "Worker", runner: "Runner", metrics: Metrics, name: str, expected: Sequence[str]
) -> Callable[[], None]:
    """What tells the http processes and the metrics which models are served by a worker."""
    counted = set(expected)  # those that were ready once, too: their gauge falls to 0

    def announce() -> None:
        worker.announce()
        ready = {model.name for model in runner.catalogue().models if model.state == "ready"}
        counted.update(ready)
        metrics.add(
            *(("model_ready", model in ready, {"model": model, "process": name})
              for model in counted)
        )  # fmt: skip

    return announce


def make_runner(settings: Settings, device: str, threads: int) -> "tuple[Runner, list[str]]":
    """The models of one device, and the names of those to load, in the order to load them."""
    with lasting():
        import_torchvision()
        from app.backbones.manifest import read_manifests
        from app.engine.runner import Runner

    registry = make_registry(settings, read_manifests(settings.models_dir), device, threads)
    return Runner(registry, settings.max_batch_size), registry.expect(settings.models)


def make_registry(
    settings: Settings, manifests: "Mapping[str, Manifest]", device: str, threads: int
) -> "Registry":
    """What there is to be loaded on one device."""
    import torch

    from app.backbones.model import Loading
    from app.backbones.registry import Registry

    torch.set_num_threads(threads)
    return Registry(manifests, torch.device(device), Loading.by(settings))


def _listen_local(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener
