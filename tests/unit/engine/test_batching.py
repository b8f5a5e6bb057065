"""Who is in the next batch."""

import time
from dataclasses import replace
from queue import Queue
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.batching import Batch, BatchQueue, Entry, Outcome
from app.engine.sharing import Portion, SharedCores, WholeDevice
from app.errors import DeadlineExceeded
from app.types import Job
from tests.server import wait_for

PIXELS = np.zeros((2, 2, 3), np.uint8)
LATER = time.monotonic() + 3600


def make_entry(
    job_id: int = 0,
    *,
    model: str = "m",
    layers: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    alone: bool = False,
    deadline: float = LATER,
    owner: object = None,
    settled: list[Outcome] | None = None,
) -> Entry:
    job = Job(
        model=model,
        version="v",
        pixels=PIXELS,
        deadline=deadline,
        layers=layers,
        needs=needs,
        alone=alone,
    )
    outcomes: list[Outcome] = [] if settled is None else settled
    return Entry(job=job, owner=owner, job_id=job_id, settle=outcomes.append)


def ids(batch: Batch) -> list[int]:
    return [entry.job_id for entry in batch.entries]


def running(queue: BatchQueue) -> list[int]:
    return [entry.job_id for entry in queue.running()]


def drain(queue: BatchQueue) -> list[list[int]]:
    """The ids of all batches that can be had now."""
    batches = []
    generator = queue.batches()
    while len(queue):
        batches.append(ids(next(generator)))
    return batches


def test_an_idle_device_takes_all_that_waits_up_to_the_largest_batch() -> None:
    queue = BatchQueue(WholeDevice(3))
    for job_id in range(5):
        queue.put(make_entry(job_id))
    assert drain(queue) == [[0, 1, 2], [3, 4]]


def test_rows_of_other_models_and_layers_wait_for_a_batch_of_their_own() -> None:
    queue = BatchQueue(WholeDevice(8))
    for job_id, (model, layers) in enumerate([("a", ()), ("b", ()), ("a", ("x",)), ("a", ())]):
        queue.put(make_entry(job_id, model=model, layers=layers))
    assert drain(queue) == [[0, 3], [1], [2]]


def test_a_model_in_a_flood_does_not_starve_another_one() -> None:
    queue = BatchQueue(WholeDevice(2))
    for job_id in range(6):
        queue.put(make_entry(job_id, model="flooded"))
    for job_id in (6, 7):
        queue.put(make_entry(job_id, model="calm"))
    batches = queue.batches()
    taken = []
    while len(queue):
        batch = next(batches)
        taken.append(ids(batch))
        if batch.entries[0].job.model == "flooded" and len(taken) < 4:  # it goes on
            queue.put(make_entry(10 + len(taken), model="flooded"))
    assert taken[:3] == [[0, 1], [6, 7], [2, 3]]


def test_models_take_turns_and_within_a_model_the_oldest_row_goes_first() -> None:
    queue = BatchQueue(WholeDevice(1))
    for job_id, model in enumerate("aaabbc"):
        queue.put(make_entry(job_id, model=model))
    assert drain(queue) == [[0], [3], [5], [1], [4], [2]]


def test_a_version_is_free_once_none_of_its_jobs_waits_or_runs() -> None:
    queue = BatchQueue(WholeDevice(1))
    queue.put(make_entry(0))
    batches = queue.batches()
    freed = Event()

    def wait() -> None:
        queue.wait_until_free("m", "other")  # at once
        queue.wait_until_free("m", "v")
        freed.set()

    waiter = Thread(target=wait)
    waiter.start()
    assert not freed.wait(0.05), "it waits"
    next(batches)
    assert not freed.wait(0.05), "it runs"
    runner = Thread(target=lambda: list(batches))
    runner.start()
    assert freed.wait(30)
    queue.close()
    runner.join(30)
    waiter.join(30)


def test_a_slow_job_holds_its_version_between_its_steps() -> None:
    queue = BatchQueue(WholeDevice(1))
    queue.put(slow_entry(0))
    batches = queue.batches()
    for _ in range(3):
        (entry,) = next(batches).entries
        assert queue._holds("m", "v")
        queue.put(entry)
        assert queue._holds("m", "v")


def test_a_row_that_must_be_alone_shares_with_nobody() -> None:
    queue = BatchQueue(WholeDevice(8))
    for job_id, alone in enumerate([False, True, False, True]):
        queue.put(make_entry(job_id, alone=alone))
    assert drain(queue) == [[0, 2], [1], [3]]


def test_two_takers_have_a_batch_each() -> None:
    queue = BatchQueue(WholeDevice(2))
    for job_id in range(4):
        queue.put(make_entry(job_id))
    one, other = queue.batches(), queue.batches()
    assert [ids(next(one)), ids(next(other))] == [[0, 1], [2, 3]]
    assert running(queue) == [0, 1, 2, 3]
    queue.put(make_entry(4))
    assert ids(next(one)) == [4]
    assert running(queue) == [2, 3, 4]


def test_a_row_that_must_be_alone_has_the_device_for_itself() -> None:
    queue, taken = BatchQueue(WholeDevice(2)), Queue[tuple[str, list[int]]]()
    go_on = {name: Queue[None]() for name in "ab"}

    def take(name: str) -> None:
        for batch in queue.batches():
            taken.put((name, ids(batch)))
            go_on[name].get(timeout=30)

    def busy() -> list[list[int]]:
        with queue._changed:  # whoever may take something has had a turn
            return [running(queue)] if queue._portion() else []

    queue.put(make_entry(0))
    takers = [Thread(target=take, args=(name,)) for name in "ab"]
    takers[0].start()
    first, batch = taken.get(timeout=30)
    assert batch == [0]
    queue.put(make_entry(1, alone=True))
    queue.put(make_entry(2))
    takers[1].start()
    assert busy() == []  # 1 waits for 0, and 2 for 1
    go_on[first].put(None)
    second, batch = taken.get(timeout=30)
    assert batch == [1]
    assert busy() == []
    go_on[second].put(None)
    third, batch = taken.get(timeout=30)
    assert batch == [2]
    queue.close()
    go_on[third].put(None)
    for taker in takers:
        taker.join(30)


def test_a_slow_job_that_another_driver_goes_on_with_is_still_running() -> None:
    queue = BatchQueue(WholeDevice(2))
    entry = make_entry(0)
    entry.job = replace(entry.job, slow=True)
    queue.put(entry)
    one, other = queue.batches(), queue.batches()
    assert next(one).entries == [entry]
    queue.put(entry)  # after its step, as a worker does
    assert next(other).entries == [entry]
    queue.put(make_entry(1))
    assert ids(next(one)) == [1]
    assert running(queue) == [0, 1]


def test_rows_that_wait_are_dealt_out_to_two_drivers() -> None:
    queue = BatchQueue(SharedCores(max_rows=16, cores=2))
    for job_id in range(5):
        queue.put(make_entry(job_id))
    one, other = queue.batches(), queue.batches()
    batches = [next(one), next(other)]
    assert [(ids(batch), batch.cores) for batch in batches] == [([0, 1], 1), ([2], 1)]


def waiting(queue: BatchQueue) -> int:
    """Threads that do."""
    with queue._changed:
        return len(queue._changed._waiters)  # type: ignore[attr-defined]


def test_of_idle_drivers_the_first_one_goes_on() -> None:
    queue, taken = BatchQueue(WholeDevice(1)), Queue[str]()
    go_on = Queue[None]()

    def take(name: str) -> None:
        for _ in queue.batches():
            taken.put(name)
            go_on.get(timeout=30)

    drivers = [Thread(target=take, args=(name,)) for name in "ab"]
    drivers[0].start()
    queue.put(make_entry(0))
    assert taken.get(timeout=30) == "a"
    drivers[1].start()
    queue.put(make_entry(1))
    assert taken.get(timeout=30) == "b"  # a is busy
    for _ in drivers:
        go_on.put(None)
    queue.wait_until_free("m", "v")
    for turn in range(10):
        for _ in range(turn % 2):  # the first in the line goes to its end
            wait_for(lambda: waiting(queue) == 2)
            with queue._changed:
                queue._changed.notify(1)
        wait_for(lambda: waiting(queue) == 2)
        queue.put(make_entry(turn))
        assert taken.get(timeout=30) == "a"
        go_on.put(None)
        queue.wait_until_free("m", "v")
    queue.close()
    for driver in drivers:
        driver.join(30)


def test_a_batch_tells_whether_there_was_more_to_do_at_its_end() -> None:
    told: list[bool] = []

    class Listening(WholeDevice):
        def learn(self, model: str, rows: int, seconds: float, *, more: bool) -> None:
            told.append(more)

    queue = BatchQueue(Listening(max_rows=1))
    for job_id in range(3):
        queue.put(make_entry(job_id))
    one, other = queue.batches(), queue.batches()
    next(one)
    next(one)  # the first batch is done, and two rows waited
    next(other)
    queue.close()
    for driver in (one, other):
        assert next(driver, None) is None
    assert told == [True, True, False]  # the other driver's ran when the second was done


def test_a_light_row_beside_a_batch_in_progress_waits_for_company_and_then_goes() -> None:
    sharing = SharedCores(max_rows=4, cores=2)
    for model in "ab":
        sharing.learn(model, 1, 1e-4, more=False)
    queue = BatchQueue(sharing)
    queue.put(make_entry(0, model="a"))
    one, other = queue.batches(), queue.batches()
    assert ids(next(one)) == [0]
    row = make_entry(1, model="b")
    queue.put(row)
    assert ids(next(other)) == [1]
    assert time.monotonic() - row.arrived >= sharing.patience_s


def test_an_expired_row_is_settled_and_never_reaches_the_device() -> None:
    queue = BatchQueue(WholeDevice(8))
    settled: list[Outcome] = []
    queue.put(make_entry(0, deadline=time.monotonic() - 1, settled=settled))
    queue.put(make_entry(1))
    assert drain(queue) == [[1]]
    assert isinstance(settled[0], DeadlineExceeded)


def test_a_batch_of_expired_rows_alone_is_not_run() -> None:
    queue = BatchQueue(WholeDevice(1))
    queue.put(make_entry(0, deadline=time.monotonic() - 1))
    queue.put(make_entry(1))
    assert ids(next(queue.batches())) == [1]


def test_a_cancelled_row_is_forgotten() -> None:
    queue = BatchQueue(WholeDevice(8))
    owner = object()
    for job_id in range(3):
        queue.put(make_entry(job_id, owner=owner))
    queue.cancel(owner, 1)
    assert drain(queue) == [[0, 2]]


def test_all_rows_of_an_owner_that_has_gone_are_forgotten() -> None:
    queue = BatchQueue(WholeDevice(8))
    gone, here = object(), object()
    for job_id, owner in enumerate([gone, here, gone]):
        queue.put(make_entry(job_id, owner=owner))
    queue.cancel(gone)
    assert drain(queue) == [[1]]


def slow_entry(job_id: int, **changes: object) -> Entry:
    entry = make_entry(job_id, **changes)  # type: ignore[arg-type]
    entry.job = replace(entry.job, slow=True)
    return entry


def test_fast_rows_go_before_slow_ones() -> None:
    queue = BatchQueue(WholeDevice(8))
    for entry in (slow_entry(0), make_entry(1), slow_entry(2), make_entry(3)):
        queue.put(entry)
    assert drain(queue) == [[1, 3], [0], [2]]


def test_slow_jobs_take_their_steps_in_turn() -> None:
    queue = BatchQueue(WholeDevice(8))
    queue.put(slow_entry(0))
    queue.put(slow_entry(1))
    taken = []
    for batch in queue.batches():
        (entry,) = batch.entries
        taken.append(entry.job_id)
        if len(taken) == 5:
            break
        queue.put(entry)
    assert taken == [0, 1, 0, 1, 0]


def test_slow_work_keeps_a_tenth_of_the_time_beside_fast_work() -> None:
    now = 0.0
    sharing = WholeDevice(1)
    sharing.clock = lambda: now
    queue = BatchQueue(sharing)
    spent = {True: 0.0, False: 0.0}
    queue.put(slow_entry(0))
    queue.put(make_entry(1))
    for batch in queue.batches():
        (entry,) = batch.entries
        seconds = 0.05 if entry.job.slow else 0.01
        now += seconds
        spent[entry.job.slow] += seconds
        queue.put(entry)  # there is always more of both
        if now > 60:
            break
    assert spent[True] / now == pytest.approx(0.1, abs=0.01)


def test_batches_in_progress_at_once_share_the_time_by_their_cores() -> None:
    now, learnt = 5.0, []

    class Shares(WholeDevice):
        clock = staticmethod(lambda: now)

        def portion(self, *_: object, **_more: object) -> Portion:
            return Portion(1, next(cores))

        def learn(self, model: str, rows: int, seconds: float, *, more: bool) -> None:
            learnt.append((model, seconds))

    cores = iter([1, 3])
    queue = BatchQueue(Shares(1))
    for job_id, model in enumerate("ab"):
        queue.put(make_entry(job_id, model=model))
    first, second = queue.batches(), queue.batches()
    next(first)
    now += 1
    next(second)
    now += 4
    queue.close()
    assert list(first) == []
    now += 7
    assert list(second) == []
    assert learnt == [("a", 1 + 1), ("b", 3 + 7)]


def test_slow_work_alone_owes_nothing_to_fast_work_that_comes_later() -> None:
    queue = BatchQueue(WholeDevice(1))
    queue.put(slow_entry(0))
    batches = queue.batches()
    for _ in range(100):
        queue.put(next(batches).entries[0])
    assert queue._credit_s == 0


def test_a_slow_job_that_is_cancelled_during_its_step_does_not_come_again() -> None:
    queue = BatchQueue(WholeDevice(1))
    owner = object()
    queue.put(slow_entry(0, owner=owner))
    batches = queue.batches()
    (entry,) = next(batches).entries
    queue.cancel(owner, 0)
    queue.put(entry)
    assert len(queue) == 0


def test_a_slow_job_whose_deadline_passed_between_two_steps_is_settled() -> None:
    queue = BatchQueue(WholeDevice(1))
    settled: Queue[Outcome] = Queue()
    entry = slow_entry(0, deadline=time.monotonic() - 1)
    entry.settle = settled.put
    queue.put(entry)
    taker = Thread(target=lambda: list(queue.batches()))
    taker.start()
    assert isinstance(settled.get(timeout=30), DeadlineExceeded)
    queue.close()
    taker.join(30)


def test_waiting_for_company_ends_when_the_batch_is_full() -> None:
    queue = BatchQueue(WholeDevice(2), max_wait_s=3600)
    queue.put(make_entry(0))
    batches: list[Batch] = []
    taker = Thread(target=lambda: batches.append(next(queue.batches())))
    taker.start()
    queue.put(make_entry(1))
    taker.join(10)
    assert ids(batches[0]) == [0, 1]


def test_waiting_for_company_ends_with_the_time_allowed() -> None:
    queue = BatchQueue(WholeDevice(2), max_wait_s=0.01)
    queue.put(make_entry(0))
    assert ids(next(queue.batches())) == [0]


def test_a_row_cancelled_while_it_waited_for_company_leaves_no_batch() -> None:
    queue = BatchQueue(WholeDevice(2), max_wait_s=3600)
    owner = object()
    queue.put(make_entry(0, owner=owner))
    batches: list[Batch] = []
    taker = Thread(target=lambda: batches.append(next(queue.batches())))
    taker.start()
    queue.cancel(owner)
    queue.put(make_entry(1))
    queue.put(make_entry(2))
    taker.join(10)
    assert ids(batches[0]) == [1, 2]


@pytest.mark.parametrize("waits", [False, True])
def test_closing_ends_the_batches_even_of_a_taker_that_waits(waits: bool) -> None:
    queue = BatchQueue(WholeDevice(2), max_wait_s=3600)
    if waits:
        queue.put(make_entry(0))
    ended: list[bool] = []
    taker = Thread(target=lambda: ended.append(list(queue.batches()) is not None))
    taker.start()
    queue.close()
    taker.join(10)
    assert ended == [True]


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=30),
    st.integers(1, 5),
)
def test_every_row_is_in_exactly_one_batch_and_batches_keep_the_rules(
    rows: list[tuple[str, bool]], size: int
) -> None:
    queue = BatchQueue(WholeDevice(size))
    for job_id, (model, alone) in enumerate(rows):
        queue.put(make_entry(job_id, model=model, alone=alone))
    batches = drain(queue)
    assert sorted(job_id for batch in batches for job_id in batch) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= size
        assert len({rows[job_id][0] for job_id in batch}) == 1
        assert len(batch) == 1 or not any(rows[job_id][1] for job_id in batch)
