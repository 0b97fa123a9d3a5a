"""Some kills at random moments; perf/kill_resume.py makes as many as one likes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_objective import environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_killed_pretraining_goes_on_to_the_bit(tmp_path):
    command = [sys.executable, ROOT / "perf" / "kill_resume.py", "--kills", "3", "--seed", "1"]
    command += ["--out", tmp_path / "told.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["kills"], told["exact"]) == (3, 3)
    assert told["runs"] == told["runs_that_ended_alike"] >= 1
