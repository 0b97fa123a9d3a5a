import hashlib
import json
import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
from toy_objective import Toy, config

from omnisky.train import log as logs
from omnisky.train import train
from omnisky.train.checkpoint import latest


def lines(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def run(out, toy=None, *, resume=True, **changes):
    toy = Toy() if toy is None else toy
    return toy, train(toy, config(**changes), out, resume=resume, progress=False, device="cpu")


def same_weights(first, second):
    states = first.module.state_dict(), second.module.state_dict()
    return all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_it_learns_and_logs(tmp_path):
    toy, metrics = run(tmp_path, steps=200, checkpoint_every=100, log_every=50)
    log = lines(tmp_path)
    assert [line["step"] for line in log] == [50, 100, 150, 200]
    assert log[-1]["loss"] < 0.3 * log[0]["loss"]
    assert log[-1]["learning_rate"] == pytest.approx(0.01 * 0.01)
    assert all(line["examples_per_second"] > 0 for line in log)
    assert ["evaluation/error" in line for line in log] == [False, True, False, True]
    assert metrics == {k: v for k, v in log[-1].items() if k != "step"}
    assert toy.evaluations == 2


# Of processors that have none, and about something else.
@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_bf16_learns_and_keeps_fp32_weights(tmp_path):
    toy, _ = run(tmp_path, steps=100, precision="bf16", checkpoint_every=100, log_every=50)
    log = lines(tmp_path)
    assert log[-1]["loss"] < log[0]["loss"]
    assert all(p.dtype == torch.float32 for p in toy.module.parameters())


@pytest.mark.parametrize("imitated", [True, False])
def test_bf16_that_would_be_slow_is_told(tmp_path, monkeypatch, imitated):
    monkeypatch.setattr("omnisky.model.fast.verbs._slow_in_bfloat16", lambda: imitated)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(tmp_path / "half", steps=2, precision="bf16")
        run(tmp_path / "whole", steps=2)
    said = [str(one.message) for one in told]
    assert ["several times slower; use fp32" in message for message in said] == [True] * imitated


def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
    first, _ = run(tmp_path / "a")
    torch.rand(1)
    second, _ = run(tmp_path / "b")
    third, _ = run(tmp_path / "c", seed=1)
    assert same_weights(first, second)
    assert not same_weights(first, third)


def test_evaluation_and_logging_do_not_change_the_training(tmp_path):
    first, _ = run(tmp_path / "a", checkpoint_every=3, log_every=2)
    second, _ = run(tmp_path / "b", checkpoint_every=40, log_every=40)
    assert same_weights(first, second)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, metrics = run(tmp_path)
    log = lines(tmp_path)
    second, again = run(tmp_path)
    assert same_weights(first, second)
    assert again == metrics
    assert lines(tmp_path) == log
    assert second.evaluations == 0


def test_more_steps_go_on(tmp_path):
    run(tmp_path)
    run(tmp_path, steps=50)
    assert [line["step"] for line in lines(tmp_path)][-2:] == [48, 50]
    with pytest.raises(ValueError, match="is at step 50 already; steps is 40"):
        run(tmp_path)


def test_other_data_or_configuration_is_refused(tmp_path):
    run(tmp_path)
    other = Toy()
    other.fingerprint = "other"
    with pytest.raises(ValueError, match=r"'toy', that of this objective 'other'.*other folder"):
        run(tmp_path, other)
    with pytest.raises(ValueError, match="batch_size 8 there, 4 here; seed 0 there, 1 here"):
        run(tmp_path, batch_size=4, seed=1)
    wider = Toy()
    wider.module[1] = torch.nn.Linear(8, 2)
    with pytest.raises(ValueError, match="is of another model"):
        run(tmp_path, wider)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 40


def test_starting_anew_sets_the_earlier_run_aside(tmp_path):
    run(tmp_path)
    run(tmp_path, resume=False, seed=1)
    run(tmp_path, resume=False, seed=2)
    assert sorted(p.name for p in tmp_path.glob("previous-*")) == ["previous-1", "previous-2"]
    earlier = latest(tmp_path / "previous-1")
    assert earlier is not None
    assert earlier.state["config"]["seed"] == 0


def test_micro_batches_are_one_batch(tmp_path):
    one, _ = run(tmp_path / "one", Toy(noise=False))
    four, _ = run(tmp_path / "four", Toy(noise=False), accumulate=4)
    for first, second in zip(lines(tmp_path / "one"), lines(tmp_path / "four"), strict=True):
        for name in ("loss", "gradient_norm"):
            assert first[name] == pytest.approx(second[name], rel=1e-5)
    for first, second in zip(one.module.parameters(), four.module.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 3: the number of processes, 1, times accum"):
        run(tmp_path / "three", accumulate=3)


def test_a_run_of_micro_batches_goes_on_to_the_bit(tmp_path):
    settings = {"accumulate": 2, "schedule": "constant"}
    whole, _ = run(tmp_path / "whole", **settings)
    run(tmp_path / "parts", steps=20, **settings)
    parts, _ = run(tmp_path / "parts", **settings)
    assert same_weights(whole, parts)


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shared_objects_are_evaluated_in_the_precision_of_training(tmp_path, precision):
    class Sharing(Toy):
        def evaluate_share(self, rank, world_size):
            assert (rank, world_size) == (0, 1)
            error = self.module(self.x) - self.y
            half = self.module(self.x).dtype == torch.bfloat16
            return {"error": (float(error.abs().sum()), len(error)), "half": (float(half), 1)}

    toy, metrics = run(tmp_path, Sharing(), precision=precision)
    assert metrics["evaluation/half"] == (precision == "bf16")
    with torch.no_grad():
        error = (toy.module.eval()(toy.x) - toy.y).abs().mean()
    assert metrics["evaluation/error"] == pytest.approx(
        float(error), rel=1e-6 if precision == "fp32" else 0.05
    )


def test_what_is_written_on_acceptance_is_not_written_by_a_run_that_is_refused(tmp_path):
    told = []
    accepted = {"progress": False, "device": "cpu", "accepted": lambda: told.append(1)}
    train(Toy(), config(), tmp_path, **accepted)
    with pytest.raises(ValueError, match="seed 0 there, 1 here"):
        train(Toy(), config(seed=1), tmp_path, **accepted)
    assert told == [1]


def test_what_an_objective_tells_becomes_rates(tmp_path):
    class Telling(Toy):
        def loss(self, module, indices, generator):
            loss, metrics = super().loss(module, indices, generator)
            return loss, {**metrics, "tokens": 5.0 * len(indices), "flops": 1e6 * len(indices)}

    run(tmp_path, Telling(), accumulate=2)
    for line in lines(tmp_path):
        assert line["tokens_per_second"] == pytest.approx(5 * line["examples_per_second"])
        assert 0 < line["mfu"] < 1
        assert "flops" not in line


def test_what_cannot_compute_again_says_so(tmp_path):
    with pytest.raises(
        ValueError, match=r"no set_recompute\(\); use activation_checkpointing=false"
    ):
        run(tmp_path, activation_checkpointing=True)
    with pytest.raises(ValueError, match=r"Sequential does not know compile: it has no set_compil"):
        run(tmp_path, compile=True)


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    run(tmp_path, steps=10)
    whole = (tmp_path / "log.jsonl").read_text()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 12, "loss": 1.0}\n{"step": 1')
    log = logs.RunLog(tmp_path, 10)
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == whole


def test_a_log_on_a_full_disk_says_so(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no always-full device to write to")
    log = logs.RunLog(tmp_path, 0)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"log line of step 3 could not be written .*No space left"):
        log.write(3, {"loss": 1.0})
    log.close()


def test_tensorboard_is_written_if_there(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_without_tensorboard_it_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(logs, "_told", set())
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "a")
        run(tmp_path / "b")
    assert [r.message for r in caplog.records] == [
        "no TensorBoard here, so the log is log.jsonl alone; to have both: "
        "pip install 'omnisky[track]'"
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_speaks_only_of_long_runs(terminal, monkeypatch, capsys):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    quick = logs.ProgressBar(10, 0)
    quick.update(10, 1.0)
    quick.close()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logs.ProgressBar, "_patience_seconds", 0.0)
    slow = logs.ProgressBar(10, 4)
    slow.update(6, None)
    slow.update(10, 0.5)
    slow.close()
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "loss 0.5" in shown
    silent = logs.ProgressBar(10, 0, enabled=False)
    silent.update(10, 0.5)
    assert capsys.readouterr().err == ""


def test_the_average_of_the_weights_is_evaluated_and_comes_out(tmp_path):
    plain, averaged = Toy(noise=False), Toy(noise=False)
    train(plain, config(), tmp_path / "plain", progress=False, device="cpu")
    train(averaged, config(ema=0.8), tmp_path / "ema", progress=False, device="cpu")
    found = latest(tmp_path / "ema")
    assert found is not None
    for name, tensor in plain.module.state_dict().items():
        assert torch.equal(found.model[name], tensor), "averaging must not change the training"
        assert torch.equal(found.average[name], averaged.module.state_dict()[name])
    averaged.module.eval()
    assert found.state["metrics"]["evaluation/error"] == averaged.evaluate()["error"]


def test_a_run_with_an_average_goes_on_to_the_bit(tmp_path):
    # A constant rate, as that of a cosine depends on the number of steps.
    again, parts = Toy(), Toy()
    settings = {"ema": 0.8, "schedule": "constant"}
    train(again, config(**settings), tmp_path / "again", progress=False, device="cpu")
    train(parts, config(steps=20, **settings), tmp_path / "parts", progress=False, device="cpu")
    parts = Toy()
    train(parts, config(steps=40, **settings), tmp_path / "parts", progress=False, device="cpu")
    for name, tensor in again.module.state_dict().items():
        assert torch.equal(parts.module.state_dict()[name], tensor)


def test_a_run_of_before_there_were_averages_goes_on(tmp_path):
    train(Toy(), config(steps=20), tmp_path, progress=False, device="cpu")
    (path,) = (p for p in tmp_path.glob("checkpoints/*20"))
    state = json.loads((path / "state.json").read_text())
    for name in ("ema", "schedule"):
        del state["config"][name]
    data = json.dumps(state).encode()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.json"] = hashlib.sha256(data).hexdigest()
    (path / "state.json").write_bytes(data)
    (path / "manifest.json").write_text(json.dumps(manifest))
    train(Toy(), config(steps=40), tmp_path, progress=False, device="cpu")
    assert latest(tmp_path).step == 40
