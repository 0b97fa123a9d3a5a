"""Pretraining in several processes: from data to a model, and what they say while they wait."""

import json
from pathlib import Path

import pytest
import torch
from pretraining_program import said

from omnisky.model import Model
from omnisky.train import read_recipe
from omnisky.train.pretraining import (
    PretrainingObjective,
    PretrainingRecipe,
    TokenTable,
    tokenising,
)
from tests.processes import run_well

PROGRAM = Path(__file__).with_name("pretraining_program.py")
RECIPE = """
preset = "tiny"
[[data.sources]]
dataset = "gaia-apogee-mini"
modalities = ["gaia_g", "gaia_bp", "apogee_teff"]
[[data.sources]]
dataset = "gaia-apogee-mini"
modalities = ["gaia_g", "gaia_rp"]
[masking]
input_budget = 2
output_budget = 2
[evaluation]
objects = 5
matrix_objects = 2
[train]
steps = 2
batch_size = 8
accumulate = 2
sharding = "fsdp2"
checkpoint_every = 2
log_every = 1
"""


def test_a_divided_model_is_pretrained_and_loads_whole(star_tokenizer, tmp_path):
    star_tokenizer.save_pretrained(tmp_path / "codecs")
    path, out = tmp_path / "r.toml", tmp_path / "run"
    names = ["gaia_g", "gaia_bp", "gaia_rp", "apogee_teff"]
    path.write_text(f'codecs = "{tmp_path}/codecs"\nmodalities = {json.dumps(names)}\n{RECIPE}')
    run_well(PROGRAM, path, out)
    network = Model.from_pretrained(out / "model").network
    kept = torch.load(out / "kept.pt")
    assert kept["weights"].keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, kept["weights"][name]), name
    vectors = said(network, out)
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors, kept["said"], rtol=1e-6, atol=1e-6)
    assert (out / "any_to_any.json").is_file()

    # What two processes found of five objects a source is what one finds.
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    plan = read_recipe(path, PretrainingRecipe)
    tables = [
        [TokenTable.open(folder) for folder in sorted((out / "tokens").glob(f"*/{split}"))]
        for split in ("train", "calibration")
    ]
    alone = PretrainingObjective(network, *tables, plan.masking, evaluation=plan.evaluation)
    assert len(alone.evaluate()) == len(names)
    for name, value in alone.evaluate().items():
        assert line[f"evaluation/{name}"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_who_waits_long_says_once_what_for(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tokenising, "_PATIENT_SECONDS", -1.0)
    monkeypatch.setenv("LOCAL_RANK", str(number))
    monkeypatch.setenv("RANK", "8")
    paths = [tmp_path / "there", tmp_path / "first", tmp_path / "second"]
    paths[0].touch()
    coming = iter(paths[1:])
    monkeypatch.setattr(tokenising.time, "sleep", lambda seconds: next(coming).touch())
    tokenising._wait(paths)
    printed = capsys.readouterr().err
    if number:
        assert printed == ""
    else:
        assert printed.count("\n") == 1
        assert printed.startswith(f"process 8 waits for {paths[1]}, which another process makes")
        assert "one --out that they share" in printed
