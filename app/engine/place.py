"""A place in the pool, and the process that fills it."""

import asyncio
import socket
from dataclasses import dataclass

from app.engine.control import Control, Line
from app.engine.listening import listen_again, refuse


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
    """A place in the pool, and the process that fills it now.

    ``listener``: of an http process; it outlives each of them.
    """

    role: str
    number: int
    device: str = ""
    listener: socket.socket | None = None
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

    def refuse(self) -> None:
        """Let callers go to other places, while nothing fills this one."""
        if self.listener:
            refuse(self.listener)

    def listen(self) -> None:
        """After ``refuse``."""
        if self.listener and self.wanted:
            listen_again(self.listener)
