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

from app.backbones.builds import Build, find, trying, using
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
def kept(place: Path, precision: Precision, cores: Cores) -> Iterator[Kept | None]:
    """Load what is kept in a place; the programs run for the first time within this.

    None: there is nothing yet, or nothing that may be used; whoever compiles will say why.

    Args:
        place: see ``place_of``.
        precision: in which layers compute.
        cores: of the worker.
    """
    with ExitStack() as stack:
        try:
            found = _enter(stack, place)
        except (OSError, RuntimeError) as exc:
            log.warning("what was compiled is not used: %s", exc)
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
    """Nobody waits for one that is still being built."""
    build = find(place)
    if not build or not build.kinds:
        return None
    stack.enter_context(using(place))
    stack.enter_context(trying(place))
    return build
