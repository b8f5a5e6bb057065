"""Work that nobody waits for: it has what the others leave of the processor."""

import os
import signal
import sys
from pathlib import Path
from threading import Thread

from app.engine.control import BlockingControl

_LOWEST = 19  # priority
_FIRST_TO_END = "1000"  # where memory is short


def process_gives_way() -> None:
    """Let this process, and those that it starts, give way to all others, and end before them."""
    os.nice(_LOWEST)
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    mark = Path("/proc/self/oom_score_adj")
    if mark.is_file():
        mark.write_text(_FIRST_TO_END, "ascii")


def end_with(control: BlockingControl) -> None:
    """End this process, and those that it started, as soon as its parent is gone.

    It must lead a process group of its own.
    """

    def wait() -> None:
        for _ in control.lines():
            pass
        os.killpg(0, signal.SIGKILL)

    Thread(target=wait, daemon=True).start()
