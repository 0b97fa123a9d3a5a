"""Numbers that are not finite: the run stops, keeps what was good, and says how to go on."""

import json
from pathlib import Path

import pytest
import torch
from toy_objective import Toy, config

from omnisky.train import train
from omnisky.train.checkpoint import folder_of, latest
from omnisky.train.sampler import EpochSampler
from tests.processes import run_well

PROGRAM = Path(__file__).with_name("spoilt_objective.py")
# Met in steps 12, 23 and 35.
BAD = 23


def run(out, toy=None, **changes):
    toy = Toy() if toy is None else toy
    train(toy, config(**changes), out, progress=False, device="cpu")
    return toy


def spoilt(toy=None):
    toy = Toy() if toy is None else toy
    toy.y[BAD] = float("nan")
    return toy


def step_of_bad(after):
    """Return the first step after some steps that has the bad object."""
    sampler = EpochSampler(100, 8, 0)
    batches = [sampler.next_batch().tolist() for _ in range(40)]
    return next(n for n, batch in enumerate(batches, 1) if n > after and BAD in batch)


def steps_kept(out):
    return sorted(int(p.name[5:]) for p in out.glob("checkpoints/step-*"))


def logged(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def fails(out, toy, **changes):
    with pytest.raises(FloatingPointError) as caught:
        run(out, toy, **changes)
    return str(caught.value)


STOP = step_of_bad(20)


def test_the_step_is_not_taken_and_the_objects_are_named(tmp_path):
    assert STOP % 10 != 1  # else a checkpoint would be there anyway
    run(tmp_path, steps=20)
    toy = spoilt()
    said = fails(tmp_path, toy)
    assert f"step {STOP}: process 0, micro-batch 1 of 1: loss nan, not finite by th" in said
    assert f"are objects {BAD} of 8. The step was not taken" in said
    assert all(bool(torch.isfinite(t).all()) for t in toy.module.state_dict().values())


def test_what_there_was_before_is_kept(tmp_path):
    settings = {"schedule": "constant", "optimizer": "adam"}
    run(tmp_path / "whole", steps=STOP - 1, **settings)
    run(tmp_path / "run", steps=20, **settings)
    said = fails(tmp_path / "run", spoilt(), **settings)
    assert f"kept in {folder_of(tmp_path / 'run', STOP - 1)}, where" in said
    kept, whole = latest(tmp_path / "run"), latest(tmp_path / "whole")
    assert kept.step == whole.step == STOP - 1
    assert kept.state["sampler"] == whole.state["sampler"]
    for part in ("model", "optimizer"):
        for name, tensor in getattr(whole, part).items():
            assert torch.equal(getattr(kept, part)[name], tensor), name
    last = logged(tmp_path / "run")[-1]
    assert last["step"] == STOP - 1
    assert all(value == value for value in last.values())  # without the step that was not taken


def test_none_of_the_earlier_ones_is_removed(tmp_path):
    run(tmp_path, steps=20)
    fails(tmp_path, spoilt(), keep_checkpoints=1)
    assert steps_kept(tmp_path) == [10, 20, STOP - 1]


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2, "ema": 0.9}])
def test_mended_it_ends_with_the_bits_of_one_that_was_never_spoilt(tmp_path, settings):
    whole = run(tmp_path / "whole", **settings)
    fails(tmp_path / "run", spoilt(), **settings)
    mended = run(tmp_path / "run", **settings)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(mended.module.state_dict()[name], tensor), name


def test_unchanged_it_meets_the_same_batch_and_stops_again(tmp_path):
    first = fails(tmp_path, spoilt())
    there = {p: p.stat().st_mtime_ns for p in tmp_path.glob("checkpoints/*/*")}
    log = logged(tmp_path)
    assert fails(tmp_path, spoilt()) == first
    assert there == {p: p.stat().st_mtime_ns for p in tmp_path.glob("checkpoints/*/*")}
    assert logged(tmp_path) == log


def test_what_forward_passes_count_is_as_before(tmp_path):
    def counting():
        toy = Toy()
        norm = torch.nn.BatchNorm1d(6)
        toy.module = torch.nn.Sequential(norm, *toy.module)
        return toy

    whole = run(tmp_path / "whole", counting())
    toy = counting()
    toy.x = toy.x.clone()
    toy.x[BAD] = float("nan")
    fails(tmp_path / "run", toy)
    mean = toy.module[0].running_mean
    assert torch.isfinite(mean).all()
    kept = latest(tmp_path / "run")
    assert torch.equal(kept.model["0.running_mean"], mean)
    mended = run(tmp_path / "run", counting())
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(mended.module.state_dict()[name], tensor), name


def test_in_the_first_step_there_is_nothing_to_keep(tmp_path):
    toy = Toy()
    toy.y[:] = float("nan")
    assert "No step was taken before it" in fails(tmp_path, toy)
    assert latest(tmp_path) is None


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    class Torn(Toy):
        def loss(self, module, indices, generator):
            loss, metrics = super().loss(module, indices, generator)
            if BAD in indices.tolist():
                module[1].bias.data.fill_(torch.inf)
            return loss, metrics

    said = fails(tmp_path, Torn())
    assert "Weights were not finite before it; earlier checkpoints are kept" in said
    assert steps_kept(tmp_path) == [10]


def test_a_full_disk_does_not_hide_why_it_stopped(tmp_path, monkeypatch):
    run(tmp_path, steps=20)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omnisky.train.checkpoint._publish", full)
    said = fails(tmp_path, spoilt())
    assert f"objects {BAD} of 8" in said
    assert "What there was before it is lost" in said
    assert "No space left" in said
    assert steps_kept(tmp_path) == [10, 20]


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    toy = Toy(noise=False)
    toy.module[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    batch = ", ".join(map(str, EpochSampler(100, 8, 0).next_batch().tolist()))
    said = fails(tmp_path, toy)
    assert "step 1: all losses are finite, the length of the gradient is" in said
    assert f"; process 0, objects {batch}. The step" in said


def test_the_first_objects_are_described(tmp_path):
    class Told(Toy):
        def describe(self, index):
            return f"row {index - 90}"

    toy = Told()
    toy.y[90:] = float("nan")
    said = fails(tmp_path, toy, batch_size=96)
    listed = said.partition("are objects ")[2].partition(" of 96")[0].split(", ")
    numbers = [int(text.partition(" ")[0]) for text in listed]
    assert len(numbers) > 5
    assert listed == [f"{n} (row {n - 90})" for n in numbers[:5]] + list(map(str, numbers[5:]))


def test_the_course_may_be_changed_and_is_told(tmp_path):
    run(tmp_path, steps=20)
    with pytest.warns(
        UserWarning, match=r"on from step 20 with learning_rate 0\.001 instead of 0\.01"
    ):
        run(tmp_path, steps=30, learning_rate=0.001)
    assert logged(tmp_path)[-1]["learning_rate"] < 0.0011
    with pytest.warns(
        UserWarning, match=r"clip_norm 0\.5 instead of 1\.0, warmup_steps 30 instead of 5"
    ):
        run(tmp_path, learning_rate=0.001, clip_norm=0.5, warmup_steps=30)
    # What it goes on with now is what it has; told once, to be warned of no more.
    run(tmp_path, steps=45, learning_rate=0.001, clip_norm=0.5, warmup_steps=30)
    with pytest.raises(
        ValueError, match=r"configuration: weight_decay 0\.05 there, 0\.1 here\. Only"
    ):
        run(tmp_path, steps=50, learning_rate=0.01, weight_decay=0.1)


def test_a_lower_rate_gets_past_a_loss_that_grew_too_large(tmp_path):
    said = fails(tmp_path, Toy(noise=False), learning_rate=1e15, warmup_steps=0)
    assert "step 2" in said
    # The first step alone spoilt the weights, as the message says may be.
    with pytest.warns(UserWarning, match="goes on from step 1"):
        again = fails(tmp_path, Toy(noise=False), warmup_steps=0)
    assert "remove that folder" in again
    for path in folder_of(tmp_path, 1).iterdir():
        path.unlink()
    folder_of(tmp_path, 1).rmdir()
    run(tmp_path, Toy(noise=False), warmup_steps=0)
    assert logged(tmp_path)[-1]["step"] == 40


def test_on_the_command_line_it_is_one_line(tmp_path, monkeypatch, capsys):
    from omnisky.cli.app import main

    def stops(*_, **__):
        raise FloatingPointError("the loss is not finite")

    (tmp_path / "r.toml").write_text("")
    monkeypatch.setattr("omnisky.train.pretraining.pretrain", stops)
    assert main(["pretrain", str(tmp_path / "r.toml")]) == 2
    assert capsys.readouterr().err == "omnisky: the loss is not finite\n"


def test_two_processes_stop_and_keep_together(tmp_path):
    run_well(PROGRAM, tmp_path)
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    for sharding in ("none", "fsdp2"):
        stopped, again = told[0][sharding]
        assert stopped == again
        assert "step 4: process 1, micro-batch 1 of 1: loss nan" in stopped
        assert str(folder_of(tmp_path / sharding, 3)) in stopped
        assert steps_kept(tmp_path / sharding) == [2, 3]
        kept = latest(tmp_path / sharding)
        assert kept.step == 3
        assert all(bool(torch.isfinite(kept.model[name]).all()) for name in kept.model)
