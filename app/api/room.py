"""How many bytes of bodies an http process holds at once; further ones are left on the wire."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Overloaded


class Room:
    """For the bodies of the requests in progress.

    Each may be read on while there is room. Where there is none, those wait that are not complete,
    so that the others are answered and make room; if all are incomplete, the oldest goes on.

    Args:
        max_bytes: of all bodies together; the last piece read may go beyond.
        patience_s: how long a body waits for its next piece of room.
    """

    def __init__(self, max_bytes: int, patience_s: float) -> None:
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._places: dict[Place, None] = {}  # in the order in which they came
        self._changed = asyncio.Event()

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """A body's place, from its first byte to the request's end."""
        place = Place(self)
        try:
            yield place
        finally:
            if place in self._places:
                del self._places[place]
                self.change()

    def enter(self, place: "Place") -> None:
        """Take a place into account."""
        self._places.setdefault(place)

    async def wait_for(self, place: "Place") -> None:
        """Wait until a place may take another piece.

        Raises:
            Overloaded: it was too long.
        """
        if self._may_read(place):
            return
        try:
            async with asyncio.timeout(self._patience_s):
                while not self._may_read(place):
                    await self._changed.wait()
        except TimeoutError as exc:
            raise Overloaded(
                "The uploads in progress fill the memory that is set aside for them.",
                retry_after=1,
            ) from exc

    def change(self) -> None:
        """Let those who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _may_read(self, place: "Place") -> bool:
        if sum(other.size for other in self._places) < self._max_bytes:
            return True
        return not any(other.complete for other in self._places) and place is next(
            iter(self._places)
        )


class Place:
    """What one body holds."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.size = 0
        self.complete = False

    async def ready(self) -> float:
        """Wait for room; the seconds that this took.

        Raises:
            Overloaded: it was too long.
        """
        self._room.enter(self)
        started = time.monotonic()
        await self._room.wait_for(self)
        return time.monotonic() - started

    def take(self, size: int, *, complete: bool) -> None:
        """Hold so many bytes more."""
        self.size += size
        self.complete = complete
        if complete:
            self._room.change()
