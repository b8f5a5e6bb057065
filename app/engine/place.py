"""A place in the pool, and the process that fills it."""

import asyncio
from dataclasses import dataclass

from app.engine.control import Control, Line


@dataclass(eq=False)
class Process:
    """A child process and our end of its pipe."""

    process: asyncio.subprocess.Process
    control: Control

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None


@dataclass(eq=False)
class Place:
    """A place in the pool, and the process that fills it now."""

    role: str
    number: int
    device: str = ""
    wanted: bool = True  # until the service ends
    child: Process | None = None
    endpoint: str = ""  # of a worker that listens
    lives: int = 0
    short_lives: int = 0
    briefed: bool = False  # whether the child is there to be told of changes

    @property
    def name(self) -> str:
        return f"{self.role}-{self.number}"

    def send(self, line: Line) -> None:
        if self.child:
            self.child.control.send(line)
