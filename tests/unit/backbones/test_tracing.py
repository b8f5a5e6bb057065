"""Models run side by side, and none while another one is traced."""

from queue import Queue
from threading import Barrier, Thread

from app.backbones.tracing import _Gate

WAIT_S = 30


def test_models_run_side_by_side() -> None:
    gate, together = _Gate(), Barrier(2, timeout=WAIT_S)

    def run() -> None:
        with gate.running():
            together.wait()

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not together.broken


def test_tracing_waits_for_what_runs_and_holds_up_what_comes_later() -> None:
    gate, events = _Gate(), Queue[str]()

    def trace() -> None:
        with gate.tracing():
            events.put("traced")

    def run() -> None:
        with gate.running():
            events.put("ran")

    tracer, later = Thread(target=trace), Thread(target=run)
    with gate.running():
        tracer.start()
        while not gate._tracing:
            pass
        later.start()
        assert events.empty()
    assert [events.get(timeout=WAIT_S) for _ in range(2)] == ["traced", "ran"]
    tracer.join(WAIT_S)
    later.join(WAIT_S)
