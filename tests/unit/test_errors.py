import json
import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

import app.errors
from app.errors import CamserveError, SetupError, error_from_line
from tests.server import ROOT


def below(cls: type[CamserveError]) -> Iterator[type[CamserveError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from below(sub)


TREE: list[type[CamserveError]] = [CamserveError, *below(CamserveError)]
SENT = [cls for cls in TREE if not issubclass(cls, SetupError)]


def test_every_code_is_there_once() -> None:
    codes = [cls.code for cls in TREE]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("cls", SENT)
def test_every_error_is_drawn_in_the_tree_with_its_status_and_code(
    cls: type[CamserveError],
) -> None:
    drawn = re.search(rf"\b{cls.__name__} +(\d+) (\w+)$", app.errors.__doc__ or "", re.MULTILINE)
    assert drawn, f"{cls.__name__} is not in the drawing"
    assert (int(drawn[1]), drawn[2]) == (cls.status, cls.code)
    assert 400 <= HTTPStatus(cls.status) < 600


def test_nothing_is_drawn_that_does_not_exist() -> None:
    drawn = re.findall(r"[─ ]([A-Z]\w+) +\d{3} ", app.errors.__doc__ or "")
    assert set(drawn) <= {cls.__name__ for cls in TREE}


@pytest.mark.parametrize("cls", SENT)
def test_an_error_crosses_a_socket_whole(cls: type[CamserveError]) -> None:
    error = cls("What happened.", fields=[("a", "b")], retry_after=3, extra={"limits": {"size": 1}})
    rebuilt = error_from_line(json.loads(json.dumps(error.as_line())))
    assert type(rebuilt) is cls
    assert str(rebuilt) == "What happened."
    assert vars(rebuilt) == vars(error)


def test_an_error_carries_what_a_client_may_know() -> None:
    error = CamserveError(
        "Bad.", fields=[("size", "too big")], retry_after=3, extra={"limits": {"size": 1}}
    )
    assert error.fields == (("size", "too big"),)
    assert (error.retry_after, error.extra) == (3, {"limits": {"size": 1}})
    assert (CamserveError("Bad.").fields, CamserveError("Bad.").extra) == ((), {})


@pytest.mark.parametrize("cls", [cls for cls in SENT if not cls.__subclasses__()])
def test_every_error_is_told_to_those_who_call(cls: type[CamserveError]) -> None:
    rows = (ROOT / "docs" / "api.md").read_text().splitlines()
    (row,) = (row for row in rows if row.startswith("|") and f"`{cls.code}`" in row)
    assert str(cls.status) in row.split("|")[1]
    assert row.split("|")[-2].strip().startswith("yes" if cls.retryable else "no")
