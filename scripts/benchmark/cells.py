"""What is asked: a kind of request, a picture, and how requests arrive."""

from collections.abc import Sequence
from dataclasses import dataclass

_USUAL_PICTURE, _USUAL_CLIENTS = "0.24", 16


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement of one server.

    ``percent``, where given, is an open loop at so much of the rate that the same server has just
    reached with the usual clients.
    """

    what: str
    picture: str
    clients: int
    percent: int | None = None

    @property
    def key(self) -> str:
        """Short, for tables and files."""
        load = f"{self.clients} clients" if self.percent is None else f"open {self.percent} %"
        return f"{self.what}, {self.picture} Mpx, {load}"


def cells(
    whats: Sequence[str],
    pictures: Sequence[str],
    clients: Sequence[int],
    percents: Sequence[int] = (),
) -> list[Cell]:
    """Every picture with the usual clients, every number of clients with the usual picture.

    The usual ones are 600x400 pixels and 16 clients, or the first of each where they are not asked
    for. The open loops come after the rate that they are a part of.
    """
    picture = _USUAL_PICTURE if _USUAL_PICTURE in pictures else pictures[0]
    usual = _USUAL_CLIENTS if _USUAL_CLIENTS in clients else clients[0]
    others = [p for p in pictures if p != picture]
    found = []
    for what in whats:
        found += [Cell(what, p, usual) for p in (picture, *others)]
        found += [Cell(what, picture, c) for c in clients if c != usual]
        found += [Cell(what, picture, usual, percent) for percent in percents]
    return found


def base_of(cell: Cell) -> Cell:
    """The closed loop whose rate an open one is a part of."""
    return Cell(cell.what, cell.picture, cell.clients)
