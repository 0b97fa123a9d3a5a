"""Batches drawn ahead, in a thread, are those that would be drawn in line: to the last bit.

That is done where an accelerator computes; tests/accelerator has the same on one.
"""

import threading

import pytest
import torch

from tests.train.random_objective import (
    RandomObjective,
    differences,
    interrupt,
    logged,
    run,
)

ELSEWHERE = "omnisky.train.step._computes_elsewhere"


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """See that threads that drew ahead have ended, however a run did."""
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("omnisky-draw")]


@pytest.fixture(autouse=True)
def ahead(monkeypatch):
    """Draw ahead although a CPU computes; its speed does not matter."""
    monkeypatch.setattr(ELSEWHERE, lambda _: True)
    monkeypatch.setattr("omnisky.train.speed.matmul_flops_per_second", lambda *_: 1e9)


@pytest.fixture(scope="module")
def in_line(tmp_path_factory):
    """Return folder and objective of runs that draw in line, by number of micro-batches."""
    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ELSEWHERE, lambda _: False)
        for accumulate in (1, 2):
            out = tmp_path_factory.mktemp("in_line")
            found[accumulate] = out, run(out, "cpu", accumulate=accumulate)
    return found


def in_thread(objective):
    """Return how many batches were drawn in line, and in a thread."""
    threads = [name.startswith("omnisky-draw") for name in objective.threads]
    return threads.count(False), threads.count(True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_and_log_are_the_same_to_the_bit(in_line, tmp_path, accumulate):
    out, plain = in_line[accumulate]
    found = run(tmp_path, "cpu", accumulate=accumulate)
    assert in_thread(plain) == (6 * accumulate, 0)
    assert in_thread(found) == (accumulate, 5 * accumulate)
    assert not differences(found, plain)
    assert logged(tmp_path) == logged(out)


@pytest.mark.parametrize("again", [True, False], ids=["ahead", "in line"])
def test_an_interrupted_run_goes_on_alike(in_line, tmp_path, monkeypatch, again):
    out, plain = in_line[2]
    # After four steps, one beyond the checkpoint; the sampler is at the fifth by then.
    with monkeypatch.context() as patched:
        interrupt(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "cpu", accumulate=2)
    monkeypatch.setattr(ELSEWHERE, lambda _: again)
    found = run(tmp_path, "cpu", accumulate=2)
    assert in_thread(found) == ((2, 4) if again else (6, 0))
    assert not differences(found, plain)
    assert logged(tmp_path) == logged(out)


class Failing(RandomObjective):
    """Cannot read what the third step needs."""

    def draw(self, indices, generator):
        batch = super().draw(indices, generator)
        if len(self.threads) == 3:
            raise OSError("the table of tokens is gone")
        return batch


def test_an_error_of_the_thread_is_that_of_the_run(tmp_path, monkeypatch):
    # One thread, so that batches are drawn one after the other.
    monkeypatch.setattr("omnisky.train.step._AHEAD", 1)
    failing = Failing()
    with pytest.raises(OSError, match="the table of tokens is gone"):
        run(tmp_path, "cpu", failing)
    assert in_thread(failing) == (1, 2)
    # The steps before it were taken.
    assert [line["step"] for line in logged(tmp_path)] == [1, 2]


class Spoilt(RandomObjective):
    """Has a loss that is not finite in the fifth step."""

    losses = 0

    def loss_of(self, module, drawn):
        loss, metrics = super().loss_of(module, drawn)
        self.losses += 1
        return (loss * float("nan") if self.losses == 5 else loss), metrics


def test_a_step_that_is_not_taken_is_where_the_run_goes_on(in_line, tmp_path):
    with pytest.raises(FloatingPointError, match="not finite in step 5"):
        run(tmp_path, "cpu", Spoilt())
    found = run(tmp_path, "cpu")
    assert in_thread(found) == (1, 1)
    assert not differences(found, in_line[1][1])


class Together(RandomObjective):
    """Draws the second to the fifth batch only when all four threads are at it."""

    def __init__(self):
        super().__init__()
        self.meeting = threading.Barrier(4, timeout=60)
        self.shares = []

    def draw(self, indices, generator):
        if threading.current_thread() is not threading.main_thread() and len(self.shares) < 4:
            self.shares.append(torch.get_num_threads())
            self.meeting.wait()
        return super().draw(indices, generator)


def test_threads_draw_several_batches_at_once_and_share_no_work(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = run(tmp_path, "cpu", Together())
        assert torch.get_num_threads() == 2
        later = []
        one = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        one.start()
        one.join()
    finally:
        torch.set_num_threads(threads)
    assert found.shares == [1] * 4
    assert later == [2]
