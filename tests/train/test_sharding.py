"""Weights divided among two processes over gloo train as whole ones do, and so do checkpoints."""

import json
import shutil
from pathlib import Path

import masked_objective
import muon_objective
import pytest
import torch
from compiled_objective import WAYS
from forked_objective import run

from omnisky.train.checkpoint import latest
from omnisky.train.sharding import Parts
from tests.processes import run_well

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder of runs: "one" by one process, 20 steps; others by two processes."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "one")
    run_well(HERE / "forked_objective.py", folder)
    return folder


def same_log(first, second):
    logs = [(out / "log.jsonl").read_text().splitlines() for out in (first, second)]
    assert len(logs[0]) == len(logs[1])
    for a, b in zip(*logs, strict=True):
        a, b = json.loads(a), json.loads(b)
        for name in ("step", "loss", "gradient_norm", "evaluation/error"):
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=2e-5)


def same_end(first, second, rtol=1e-4, atol=1e-6):
    ends = [latest(out) for out in (first, second)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].state["sampler"] == ends[1].state["sampler"]
    for part in ("model", "optimizer", "average"):
        tensors = [getattr(end, part) for end in ends]
        assert tensors[0].keys() == tensors[1].keys()
        for name in tensors[0]:
            torch.testing.assert_close(tensors[0][name], tensors[1][name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ["two", "micro", "copied-micro"])
def test_two_processes_equal_one(runs, name):
    same_log(runs / "one", runs / name)
    same_end(runs / "one", runs / name)


def test_clipping_was_at_work(runs):
    lines = [json.loads(line) for line in (runs / "two" / "log.jsonl").read_text().splitlines()]
    assert min(line["gradient_norm"] for line in lines) > 0.5


def test_each_process_writes_its_rows(runs):
    folder = runs / "two" / "checkpoints" / "step-00000020"
    names = {path.name for path in folder.iterdir()}
    for kind in ("model", "optimizer", "average"):
        assert {f"{kind}-0000{i}-of-00002.safetensors" for i in (0, 1)} < names
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    first = Parts([folder / "model-00000-of-00002.safetensors"])
    assert first.shape("stem.weight") == (4, 6)
    whole = Parts(sorted(folder.glob("model-*")))
    assert whole.shape("stem.weight") == (7, 6)
    assert torch.equal(whole.rows("stem.weight", 2, 6), whole["stem.weight"][2:6])
    assert whole.rows("stem.weight", 7, 7).shape == (0, 6)


def test_saved_by_one_two_go_on(runs):
    run(runs / "one-one", 40)
    for name in ("one-two", "one-two-copied"):
        same_log(runs / "one-one", runs / name)
        same_end(runs / "one-one", runs / name)


@pytest.mark.parametrize(("sharding", "accumulate"), [("none", 1), ("fsdp2", 1), ("none", 2)])
def test_saved_by_two_one_goes_on(runs, tmp_path, sharding, accumulate):
    run(tmp_path / "one", 40)
    shutil.copytree(runs / "two", tmp_path / "two")
    # On fewer processes, as many objects fit in memory in more micro-batches.
    run(tmp_path / "two", 40, sharding=sharding, accumulate=accumulate)
    same_end(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_a_loss_that_is_not_finite_is_told_by_all_alike(runs, sharding):
    told = [json.loads((runs / f"nan-{sharding}-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["message"] == told[1]["message"]
    assert "objects 17 of 4. The step was not taken" in told[0]["message"]
    assert told[0]["message"].count("process ") == 1


def test_rows_that_were_changed_are_noticed(runs, tmp_path):
    shutil.copytree(runs / "two", tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000020/optimizer-00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"optimizer-00001-of-00002.* not what was written"):
        found = latest(tmp_path / "run")
    assert found is not None
    assert found.step == 10


# Of processors that have none, and about something else.
@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_a_network_is_made_divided(tmp_path):
    run_well(HERE / "masked_objective.py", tmp_path)
    alone = masked_objective.run(tmp_path / "alone", sharding="fsdp2")
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    # Whole again in the end, in the process that writes.
    assert [one["kind"] for one in told] == ["Transformer", "Transformer"]
    assert [one["meta"] for one in told] == [False, True]
    weights = json.loads((tmp_path / "weights.json").read_text())
    for name, tensor in alone.module.state_dict().items():
        found = torch.tensor(weights[name], dtype=tensor.dtype)
        # What adds to all scores alike has no gradient but rounding, which Adam makes large.
        if not name.startswith("logits"):
            torch.testing.assert_close(found, tensor, rtol=1e-3, atol=1e-5)
    masked_objective.run(tmp_path / "alone-half", precision="bf16")
    pairs = {"divided": "alone", "copied": "alone", "half": "alone-half"}
    for name, single in pairs.items():
        tolerance = 1e-4 if name != "half" else 2e-2
        lines = [(tmp_path / out / "log.jsonl").read_text().splitlines() for out in (single, name)]
        for one, two in zip(*(map(json.loads, part) for part in lines), strict=True):
            for key in ("loss", "gradient_norm"):
                assert one[key] == pytest.approx(two[key], rel=tolerance)
            assert 0 < two["mfu"] < 1
            assert two["tokens_per_second"] == pytest.approx(15 * two["examples_per_second"])


@pytest.mark.slow
def test_compiled_blocks_train_as_plain_ones(tmp_path):
    run_well(HERE / "compiled_objective.py", tmp_path)
    told = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in WAYS}
    for name in WAYS:
        same_log(tmp_path / "plain", tmp_path / name)
        # AdamW makes much of the last bits of small gradients.
        same_end(tmp_path / "plain", tmp_path / name, rtol=1e-3, atol=1e-5)
        assert told[name]["names"] == told["plain"]["names"]
        assert not any(told[name]["compiled"])


@pytest.mark.slow
def test_muon_on_divided_matrices(tmp_path):
    run_well(HERE / "muon_objective.py", tmp_path)
    found = json.loads((tmp_path / "moved.json").read_text())
    for name, wanted in muon_objective.moved(divided=False).items():
        pair = torch.tensor(found[name]), torch.tensor(wanted)
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-7)
    how = muon_objective.MUON
    masked_objective.run(tmp_path / "one", **how)
    # Small singular values grow on the way to a step, and with them the rounding of gradients.
    ends = [latest(tmp_path / name) for name in ("one", "two")]
    assert ends[0] is not None
    assert ends[1] is not None
    for name, tensor in ends[0].model.items():
        if not name.startswith("logits"):
            torch.testing.assert_close(ends[1].model[name], tensor, rtol=0, atol=3e-4, msg=name)
    momenta = [n for n in ends[1].optimizer if n.startswith("momentum_buffer/")]
    assert len(momenta) == len(ends[0].optimizer.keys() & set(momenta)) > 0
    # Saved by two, one goes on.
    for name in ("one", "two"):
        masked_objective.run(tmp_path / name, steps=10, **how)
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 10
    for one, two in zip(*(map(json.loads, part) for part in lines), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
