"""What a batch gets of a device, beside others."""

from hypothesis import given
from hypothesis import strategies as st

from app.engine.sharing import Portion, SharedCores, WholeDevice

LIGHT_S = 0.004  # of a core, for a row


def cores_with_a_light_model() -> SharedCores:
    sharing = SharedCores(max_rows=16, cores=2)
    sharing.learn("light", 1, LIGHT_S, more=False)
    return sharing


def test_on_a_gpu_each_batch_takes_all_that_waits() -> None:
    sharing = WholeDevice(max_rows=16)
    assert sharing.drivers == 3
    assert sharing.portion("m", 9, 0, []) == Portion(9, 1)
    assert sharing.portion("m", 40, 0, [1]) == Portion(16, 1)


def test_a_row_alone_has_all_cores() -> None:
    assert SharedCores(max_rows=16, cores=8).portion("m", 1, 0, []) == Portion(1, 8)


def test_rows_are_dealt_out_to_the_drivers_that_are_idle() -> None:
    sharing = SharedCores(max_rows=16, cores=8)
    assert sharing.drivers == 4
    assert sharing.portion("m", 6, 0, []) == Portion(2, 2)
    assert sharing.portion("m", 4, 0, [2]) == Portion(2, 2)
    assert sharing.portion("m", 2, 0, [2, 2]) == Portion(1, 2)
    assert sharing.portion("m", 1, 0, [2, 2, 2]) == Portion(1, 2)
    assert sharing.portion("m", 5, 0, [2, 2, 2, 2]) is None


def test_nothing_begins_while_one_row_has_all_cores() -> None:
    assert SharedCores(max_rows=16, cores=2).portion("m", 3, 9, [2]) is None


def test_all_batches_together_have_no_more_rows_than_one_could() -> None:
    sharing = SharedCores(max_rows=15, cores=2)
    sharing.learn("light", 1, LIGHT_S, more=False)
    assert sharing.portion("light", 40, 0, []) == Portion(7, 1)
    assert sharing.portion("light", 33, 0, [1]) == Portion(7, 1)
    one_at_a_time = SharedCores(max_rows=1, cores=2)
    assert one_at_a_time.drivers == 1
    assert one_at_a_time.portion("m", 40, 0, []) == Portion(1, 2)


def test_rows_of_a_light_model_stay_together_on_one_core() -> None:
    sharing = cores_with_a_light_model()
    assert sharing.portion("light", 1, 0, []) == Portion(1, 1)
    assert sharing.portion("light", 4, 0, []) == Portion(4, 1)
    assert sharing.portion("heavy", 4, 0, []) == Portion(2, 1)


def test_many_rows_of_a_light_model_are_dealt_out_too() -> None:
    assert cores_with_a_light_model().portion("light", 16, 0, []) == Portion(8, 1)
    many = SharedCores(max_rows=64, cores=8)
    many.learn("light", 1, LIGHT_S, more=False)
    assert many.portion("light", 64, 0, []) == Portion(16, 2)


def test_a_batch_is_no_larger_than_gains_anything() -> None:
    sharing = SharedCores(max_rows=64, cores=8)
    sharing.learn("middling", 1, 0.010, more=False)
    assert sharing.portion("middling", 64, 0, []) == Portion(8, 2)  # 40 ms of each core
    assert sharing.portion("middling", 64, 0, [5]) == Portion(4, 1)
    assert sharing.portion("heavy", 64, 0, []) == Portion(4, 2)  # two rows for each core
    assert sharing.portion("heavy", 64, 0, [5]) == Portion(2, 1)


def test_rows_of_a_heavy_model_go_one_by_one_unless_there_are_several_for_each_core() -> None:
    sharing = SharedCores(max_rows=16, cores=2)
    sharing.learn("heavy", 1, 0.08, more=True)
    found = [sharing.portion("heavy", waiting, 0, [1]) for waiting in (1, 2, 3, 4, 9)]
    assert found == [Portion(rows, 1) for rows in (1, 1, 1, 2, 2)]
    many = SharedCores(max_rows=64, cores=8)
    assert many.portion("heavy", 15, 0, [2, 2, 2]) == Portion(2, 2)
    assert many.portion("heavy", 16, 0, [2, 2, 2]) == Portion(4, 2)


def test_a_light_row_waits_for_company_beside_another_batch_but_not_for_long() -> None:
    sharing = cores_with_a_light_model()
    assert sharing.portion("light", 3, 0.001, [1]) is None
    assert sharing.portion("light", 3, sharing.patience_s, [1]) == Portion(3, 1)
    assert sharing.portion("light", 7, 0.001, [1]) is None
    assert sharing.portion("light", 8, 0.001, [1]) == Portion(8, 1)  # there is no room for more


def test_the_lighter_the_rows_the_more_of_them_are_worth_a_core_beside_another_batch() -> None:
    sharing = SharedCores(max_rows=64, cores=2)
    worth: list[int] = []
    for row_s in (0.005, 0.010, 0.015, 0.020, 0.040):
        sharing.learn(str(row_s), 1, row_s, more=False)
        given = (n for n in range(1, 33) if sharing.portion(str(row_s), n, 0, [1]))
        worth.append(next(given))
    assert worth == [16, 4, 2, 1, 1]


def test_a_slow_jobs_step_has_the_cores_that_nobody_else_waits_for() -> None:
    sharing = SharedCores(max_rows=16, cores=2)
    assert sharing.portion(None, 1, 0, []) == Portion(1, 2)
    assert sharing.portion(None, 2, 0, []) == Portion(1, 1)


def test_a_row_that_is_seldom_alone_has_its_share_of_the_cores() -> None:
    sharing = SharedCores(max_rows=16, cores=8)
    for _ in range(4):
        sharing.learn("m", 1, 0.2, more=True)
    assert sharing.portion("m", 1, 0, []) == Portion(1, 2)
    assert sharing.portion(None, 1, 0, []) == Portion(1, 8)  # a slow job's step: it is no sign
    for _ in range(2):
        sharing.learn("m", 1, 0.2, more=False)
    assert sharing.portion("m", 1, 0, []) == Portion(1, 8)


def test_what_a_row_costs_follows_the_batches_slowly() -> None:
    sharing = cores_with_a_light_model()
    sharing.learn("light", 1, 1.0, more=False)  # a disturbance
    sharing.learn("light", 1, LIGHT_S, more=False)
    assert sharing.portion("light", 1, 0, []) == Portion(1, 2)
    for _ in range(20):
        sharing.learn("light", 2, 2 * LIGHT_S, more=False)
    assert sharing.portion("light", 1, 0, []) == Portion(1, 1)


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.floats(1e-4, 10),
)
def test_cores_and_drivers_suffice_for_all_batches_and_something_always_runs(
    cores: int, max_rows: int, arrivals: list[int], row_s: float
) -> None:
    sharing = SharedCores(max_rows, cores)
    sharing.learn("m", 1, row_s, more=False)
    running: list[int] = []
    waiting = 0
    for rows in arrivals:
        waiting += rows
        while waiting and (portion := sharing.portion("m", waiting, 0, running)):
            assert 1 <= portion.rows <= min(waiting, sharing.max_rows)
            assert portion.cores >= 1
            waiting -= portion.rows
            running.append(portion.cores)
        assert running
        assert sum(running) <= cores
        assert len(running) <= sharing.drivers
        assert sharing.drivers * sharing.max_rows <= max_rows
        running.pop(0)
