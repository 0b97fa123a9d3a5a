"""Some kills at random moments; perf/kill_resume.py makes as many as one likes."""

import json

import pytest

from tests.processes import ROOT, Program


@pytest.mark.slow
def test_killed_pretraining_goes_on_to_the_bit(tmp_path):
    options = ["--kills", 3, "--seed", 1, "--steps", 20, "--out", tmp_path / "told.json"]
    program = Program(ROOT / "perf" / "kill_resume.py", options)
    assert program.wait(250) == 0, program.said()[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["kills"], told["exact"]) == (3, 3)
    assert told["runs"] == told["runs_that_ended_alike"] >= 1
