"""Table, figure and claims from cards whose numbers are invented here and nowhere else."""

import json

import numpy as np
import pytest

from omnisky.bench.report import claims, main, markdown, report, summarise
from omnisky.bench.stars import STARS

SIGMA = {
    "ridge": (200, 0.4, 0.3),
    "mlp": (100, 0.2, 0.2),
    "convnet": (110, 0.3, 0.12),
    "linear@nano": (90, 0.19, 0.15),
    "attentive@nano": (80, 0.15, 0.10),
}


def invented_card(method, n_labels, seed, sigma, inputs="xp+photometry", policy="dedicated"):
    ours = "@" in method
    shrink = (5000 / n_labels) ** 0.3 * (1 + 0.02 * (seed - 1))
    metrics = {}
    for target, s in zip(STARS.targets, sigma, strict=True):
        value = s * shrink
        one = {"value": value, "low": 0.97 * value, "high": 1.03 * value}
        metrics[target] = {
            "n": 100,
            "robust_scatter": one,
            "standard_deviation": one,
            "bias": {"value": 0.0, "low": -1.0, "high": 1.0},
            "r2": {"value": 0.9, "low": 0.8, "high": 0.95},
        }
    covered = {t: {"coverage": 0.9, "median_width": 1.0} for t in STARS.targets}
    return {
        "schema": 1, "task": STARS.name, "task_version": STARS.version, "dataset": STARS.dataset,
        "method": method, "inputs": inputs, "input_policy": policy, "n_labels": n_labels,
        "seed": seed, "metrics": metrics, "interval": covered if ours else None,
        "seconds": {"fit": 1.0, "predict": 0.1},
    }  # fmt: skip


@pytest.fixture
def cards():
    made = [
        invented_card(method, n, seed, sigma)
        for method, sigma in SIGMA.items()
        for n in STARS.label_counts
        for seed in STARS.seeds
    ]
    dropped = [
        invented_card("attentive@nano", 300, seed, SIGMA["linear@nano"], inputs, "dropped")
        for inputs in STARS.inputs
        for seed in STARS.seeds
    ]
    return made + dropped


def test_medians_over_seeds(cards):
    rows = summarise(cards, STARS)
    assert len(rows) == len(SIGMA) * len(STARS.label_counts) + len(STARS.inputs)
    row = next(r for r in rows if r["method"] == "mlp" and r["n_labels"] == 5000)
    sigma = row["apogee_teff"]["robust_scatter"]
    assert [sigma[k] for k in ("least", "median", "most")] == pytest.approx([98, 100, 102])
    assert row["seeds"] == [0, 1, 2]
    assert row["apogee_teff"]["coverage"] is None


def test_claims_are_computed_against_the_best_baseline_of_each_target(cards):
    said = claims(summarise(cards, STARS), STARS)
    goal = next(c for c in said if c["kind"] == "goal")
    assert goal["met"]
    assert goal["text"].endswith("are met.")
    assert goal["method"] == "attentive@nano"
    gain = next(c for c in said if c["kind"] == "baseline" and c["n_labels"] == 300)
    assert gain["best_baselines"] == ["mlp", "mlp", "convnet"]
    np.testing.assert_allclose(gain["percent_below"], [20, 25, 100 * (1 - 0.10 / 0.12)])
    assert "teff 20 % below mlp, logg" in gain["text"]
    assert gain["within_intervals"] == [False] * 3


def test_what_lies_within_the_intervals_is_said(cards):
    close = [
        invented_card("attentive@nano", 300, seed, (97, 0.19, 0.11)) for seed in STARS.seeds
    ] + [c for c in cards if c["method"] == "mlp" or c["method"] == "convnet"]
    gain = next(c for c in claims(summarise(close, STARS), STARS) if c["n_labels"] == 300)
    # Intervals of the cards are 3 % to both sides.
    assert gain["within_intervals"] == [True, True, False]
    assert "teff 3 % below mlp (within the intervals), logg 5 % below mlp (within" in gain["text"]
    assert "fe_h 8 % below convnet." in gain["text"]


def test_a_missed_goal_and_a_better_baseline_are_said(cards):
    weak = [c for c in cards if c["method"] != "attentive@nano"]
    said = claims(summarise(weak, STARS), STARS)
    goal = next(c for c in said if c["kind"] == "goal")
    assert "teff missed by 6 %" in goal["text"]
    assert "fe_h missed by 43 %" in goal["text"]
    gain = next(c for c in said if c["kind"] == "baseline")
    assert "fe_h 25 % above convnet" in gain["text"]


def test_table_marks_the_best(cards):
    text = markdown(summarise(cards, STARS), STARS)
    line = next(x for x in text.splitlines() if x.startswith("| 5000 | attentive@nano"))
    assert "**80** (78–82)" in line
    assert "0.90 / 0.90 / 0.90" in line
    assert "the rest dropped at predict time" in text


def test_report_writes_table_summary_and_figure(cards, tmp_path, capsys):
    for i, card in enumerate(cards):
        (tmp_path / f"{i}.json").write_text(json.dumps(card))
    (tmp_path / "old.json").write_text(json.dumps({**cards[0], "task_version": 0}))
    out = tmp_path / "out"
    text = report(STARS, tmp_path, out)
    assert (out / "table.md").read_text() == text
    assert json.loads((out / "summary.json").read_text())["task_version"] == 1
    assert (out / "scatter.png").stat().st_size > 20_000
    assert (out / "scatter.svg").is_file()
    # Its own summary lies among the cards the next time and is no card.
    assert main([str(tmp_path), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == text.strip()


def test_report_of_a_part_of_the_cells(cards, tmp_path):
    some = [c for c in cards if c["method"] == "ridge" and c["n_labels"] == 300]
    for i, card in enumerate(some):
        (tmp_path / f"{i}.json").write_text(json.dumps(card))
    assert "ridge" in report(STARS, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": {"revision": "4"}, "config_sha256": "b"}, ["revision 3 (0", "revision 4 (1"]),
        ({"weights_sha256": "b" * 64}, ["weights aaaaaaaa (0", f"weights {'b' * 8} (1"]),
    ],
)
def test_seeds_of_other_revisions_or_weights_are_refused(tmp_path, change, told):
    made_by = {"config": {"revision": "3"}, "config_sha256": "a", "weights_sha256": "a" * 64}
    for seed in STARS.seeds:
        card = invented_card("full@nano", 300, seed, SIGMA["mlp"])
        made = {**made_by, **change} if seed == 1 else made_by
        (tmp_path / f"{seed}.json").write_text(json.dumps({**card, **made}))
    with pytest.raises(ValueError, match=r"full@nano, xp.photometry, dedicated, 300 lab") as info:
        report(STARS, tmp_path, tmp_path / "out")
    assert all(text in str(info.value) for text in told)
    assert "(0.json, 2.json)" in str(info.value)
    # Another label count may be of another revision.
    (tmp_path / "1.json").unlink()
    card = invented_card("full@nano", 1000, 1, SIGMA["mlp"])
    (tmp_path / "1.json").write_text(json.dumps({**card, **made_by, **change}))
    assert "full@nano" in report(STARS, tmp_path, tmp_path / "out")


def test_no_cards_or_broken_card_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m omnisky\.bench\.run"):
        report(STARS, tmp_path, tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="delete it and run the cell again"):
        report(STARS, tmp_path, tmp_path)
