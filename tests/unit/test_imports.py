"""What a process is made of is not looked through for garbage."""

import gc

import pytest

from app.imports import lasting


class Module:
    """Stands for one; objects of a class are what the collector looks through."""


@pytest.fixture(autouse=True)
def thawed() -> object:
    yield
    gc.unfreeze()


def test_what_comes_in_while_it_lasts_is_no_longer_looked_through() -> None:
    with lasting():
        assert not gc.isenabled()
        module = Module()
    assert gc.isenabled()
    assert not any(known is module for known in gc.get_objects())


def test_the_collector_goes_on_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), lasting():
        raise ImportError
    assert gc.isenabled()
