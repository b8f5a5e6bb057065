"""Programs that an earlier start has compiled: a model that is loaded computes with them at once.

They are loaded beside the model, by another core: OpenVINO takes as long as PyTorch does. After
that nothing is left to do that a request could notice.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.backbones.builds import Build, find, place_of, trying, using
from app.backbones.cores import Cores, Kind
from app.backbones.program import Program, load
from app.types import Precision

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is being loaded of an earlier start.

    Attributes:
        build: what it came to.
        programs: those that are worth having, or why they cannot be had.
        cores: of the worker.
    """

    build: Build
    programs: Future[dict[Kind, Program]]
    cores: Cores


@contextmanager
def kept(version: str, precision: Precision, cores: Cores, max_rows: int) -> Iterator[Kept | None]:
    """Load what is kept of a model; the programs run for the first time within this.

    None: there is nothing yet, or nothing that may be used now; whoever compiles will use it, or
    say why not.

    Args:
        version: of the model.
        precision: in which its layers compute.
        cores: of the worker.
        max_rows: of its largest batch.
    """
    with ExitStack() as stack:
        try:
            place = place_of(version, precision, cores, max_rows)
            found = _enter(stack, place)
        except (ImportError, OSError, RuntimeError, ValueError) as exc:
            # No OpenVINO after all, a cache of somebody else's, a worker that died, a damaged file.
            log.warning("what was compiled is not used: %s: %s", type(exc).__name__, exc)
            found = None
        if not found:
            yield None
            return
        thread = stack.enter_context(ThreadPoolExecutor(1))
        programs = thread.submit(load, place / Build.FILE, found.kinds, precision, cores)
        yield Kept(found, programs, cores)
        if not programs.exception():
            for program in programs.result().values():
                program.let_go()


def _enter(stack: ExitStack, place: Path) -> Build | None:
    """Nobody is waited for, who may wait in turn until no model is being loaded."""
    build = find(place)
    if not build or not build.kinds:
        return None
    stack.enter_context(using(place, wait=False))
    stack.enter_context(trying(place))
    return build
