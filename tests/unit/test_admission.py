"""Who is let in, and when the others should come back."""

import pytest

from app import admission
from app.admission import Admission
from app.errors import Overloaded


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission, "time", clock)
    return clock


def refusal(admit: Admission) -> Overloaded:
    with pytest.raises(Overloaded) as caught, admit():
        pass
    return caught.value


def test_a_place_is_free_again_however_its_request_ends() -> None:
    admit = Admission(1)
    with admit():
        refusal(admit)

    def fail() -> None:
        with admit():
            raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):  # noqa: PT011 - our own
            fail()
    with admit():
        pass


def test_a_refused_request_comes_back_when_those_before_it_are_done(clock: Clock) -> None:
    admit = Admission(4)
    with admit(), admit(), admit():
        for _ in range(10):  # one a second
            with admit():
                clock.now += 1
        with admit():
            assert refusal(admit).retry_after == 4


def test_idle_time_does_not_count(clock: Clock) -> None:
    admit = Admission(1)
    with admit():
        clock.now += 1
    clock.now += 3600
    with admit():
        clock.now += 1.5
        assert refusal(admit).retry_after == 2


def test_nobody_is_sent_away_for_longer_than_a_minute(clock: Clock) -> None:
    admit = Admission(1)
    with admit():
        clock.now += 1000
        assert refusal(admit).retry_after == 60
