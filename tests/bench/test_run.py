"""The runner: cells to cards, resumed where it stopped, the test stars scored once."""

import dataclasses
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from omnisky.baselines import RidgeBaseline
from omnisky.bench import methods
from omnisky.bench import run as bench_run
from omnisky.bench.cards import Cell, find_card
from omnisky.bench.methods import Method, method
from omnisky.bench.run import cells, run, score
from omnisky.bench.stars import STARS

TASK = dataclasses.replace(
    STARS,
    name="stars/mini",
    dataset="gaia-apogee-mini",
    label_counts=(50, 100),
    seeds=(0,),
    goals={},
)


def _quick(_, one_probe):
    return RidgeBaseline(components=(0,))


@pytest.fixture
def ridge():
    return Method(name="ridge", make=_quick)


@pytest.fixture
def group(ridge):
    return [Cell(method=ridge, inputs="photometry", n_labels=50, seed=0)]


def test_card_says_what_it_is_and_is_not_made_twice(group, tmp_path, monkeypatch):
    (path,) = run(TASK, [group], tmp_path, progress=False)
    card = json.loads(path.read_text())
    assert (card["task"], card["task_version"], card["method"]) == ("stars/mini", 1, "ridge")
    assert card["weights_sha256"] is None
    assert card["interval"] is None
    assert card["n_test"] == 74
    assert card["seconds"]["fit"] > 0
    assert card["versions"]["torch"]
    for target in TASK.targets:
        sigma = card["metrics"][target]["robust_scatter"]
        assert sigma["low"] <= sigma["value"] <= sigma["high"] or sigma["low"] < sigma["high"]

    def refuse(*_):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(bench_run, "_run_group", refuse)
    assert run(TASK, [group], tmp_path, progress=False) == [path]


@pytest.mark.parametrize("spoil", ["truncate", "version", "config"])
def test_damaged_or_stale_card_is_made_again(group, tmp_path, spoil):
    (path,) = run(TASK, [group], tmp_path, progress=False)
    card = json.loads(path.read_text())
    if spoil == "truncate":
        path.write_text(path.read_text()[:40])
    elif spoil == "version":
        path.write_text(json.dumps({**card, "task_version": 2}))
    else:
        path.write_text(json.dumps({**card, "config_sha256": "0" * 64}))
    assert find_card(group[0], tmp_path, TASK) is None
    run(TASK, [group], tmp_path, progress=False)
    again = find_card(group[0], tmp_path, TASK)
    assert again["metrics"] == card["metrics"]


def test_one_probe_is_one_fit_and_three_cards(tmp_path):
    fits = []

    class Counted(RidgeBaseline):
        def fit(self, observations, y):
            fits.append(set(observations))
            return super().fit(observations, y)

    counted = Method(name="ridge", make=lambda *_: Counted(components=(0,)))
    group = [
        Cell(method=counted, inputs=i, n_labels=50, seed=0, one_probe=True) for i in TASK.inputs
    ]
    paths = run(TASK, [group], tmp_path, progress=False)
    assert len(set(paths)) == 3
    assert fits == [set(TASK.inputs["xp+photometry"])]
    cards = [json.loads(p.read_text()) for p in paths]
    assert {c["input_policy"] for c in cards} == {"dropped"}
    assert {c["inputs"] for c in cards} == set(TASK.inputs)


def test_interrupted_write_leaves_no_card(group, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("omnisky.bench.cards.json.dump", broken)
    with pytest.raises(OSError, match="No space"):
        run(TASK, [group], tmp_path, progress=False)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_cells_are_grouped_and_unknown_names_refused():
    dedicated = cells(TASK, ["ridge", "mlp"], labels=[50], seeds=[0, 1])
    assert [len(g) for g in dedicated] == [1] * 12
    shared = cells(TASK, ["ridge"], one_probe=True)
    assert [len(g) for g in shared] == [3, 3]
    with pytest.raises(ValueError, match="unknown inputs radio"):
        cells(TASK, ["ridge"], ["radio"])
    with pytest.raises(ValueError, match="unknown method 'magic'"):
        cells(TASK, ["magic"])


def test_methods_have_names_settings_and_weights(tmp_path):
    attentive = method("attentive")
    assert (attentive.name, attentive.base) == ("attentive@nano", "nano")
    one, many = (attentive.config(one_probe=p) for p in (True, False))
    assert one["modality_dropout"] != many["modality_dropout"] == "0.0"
    assert "random_state" not in one
    with pytest.raises(FileNotFoundError, match="no pretrained model 'nowhere'"):
        methods.weights_sha256("nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = methods.weights_sha256(str(tmp_path))
    methods.weights_sha256.cache_clear()
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert methods.weights_sha256(str(tmp_path)) != before


def test_score_against_a_known_answer():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, (4000, 3))
    predicted = truth + rng.normal(0.5, [0.1, 0.2, 0.3], truth.shape)
    truth[::5, 0] = np.nan
    for i, scores in enumerate(score(TASK, truth, predicted).values()):
        assert scores["n"] == (3200 if i == 0 else 4000)
        assert scores["robust_scatter"]["value"] == pytest.approx(0.1 * (i + 1), rel=0.06)
        assert scores["standard_deviation"]["value"] == pytest.approx(0.1 * (i + 1), rel=0.06)
        assert scores["bias"]["value"] == pytest.approx(0.5, abs=0.02)
        low, high = scores["robust_scatter"]["low"], scores["robust_scatter"]["high"]
        assert 0.9 < low / (0.1 * (i + 1)) < high / (0.1 * (i + 1)) < 1.1


def test_command_line_help_and_errors(capsys):
    with pytest.raises(SystemExit) as caught:
        bench_run.main(["--help"])
    assert caught.value.code == 0
    assert "stars/gaia-apogee@1" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        bench_run.main(["--methods", "magic"])
    assert caught.value.code == 2
    assert "unknown method 'magic'" in capsys.readouterr().err


def test_several_workers_make_the_same_cards(tmp_path, monkeypatch):
    """Threads stand in for the processes, whose start alone takes ten seconds each."""
    groups = cells(TASK, ["ridge"], ["photometry"])
    alone = run(TASK, groups, tmp_path / "one", progress=False)

    class Pool(ThreadPoolExecutor):
        def __init__(self, jobs, mp_context):
            assert mp_context.get_start_method() == "spawn"
            assert os.environ["OMP_NUM_THREADS"] == "1"
            super().__init__(jobs)

        def submit(self, function, *arguments):
            return super().submit(*pickle.loads(pickle.dumps((function, *arguments))))

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(bench_run, "ProcessPoolExecutor", Pool)
    both = run(TASK, groups, tmp_path / "two", jobs=2, progress=False)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    for a, b in zip(alone, both, strict=True):
        assert json.loads(a.read_text())["metrics"] == json.loads(b.read_text())["metrics"]
