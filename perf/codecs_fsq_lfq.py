"""Compare finite scalar with lookup-free quantisation at equal bits; write JSON.

    python perf/codecs_fsq_lfq.py --steps 300 --objects 6000 --out perf/results/codecs_fsq_lfq.json

The recipe of the native spectrum codec is trained once with FSQ of levels 8, 5, 5, 5 (1000 codes,
9.97 bits) and once with LFQ of 10 bits (1024 codes): same network, mock objects, steps, order of
objects and seed. Figures are those of the held-out objects of the mock universes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omnisky.bench.cards import environment
from omnisky.train.codec import train_codec

RECIPE = Path(__file__).parents[1] / "recipes" / "codecs" / "spectrum.toml"
LEVELS = {"fsq": [8, 5, 5, 5], "lfq": [2] * 10}


def trained(quantiser: str, steps: int, objects: int, folder: Path) -> dict[str, Any]:
    """Train with one quantiser; return its figures and the processor time of everything."""
    overrides = [
        f'codec.config.quantiser="{quantiser}"',
        f"codec.config.levels={LEVELS[quantiser]}",
        f"data.0.mock.objects={objects}",
        f"data.1.mock.objects={objects}",
        f"train.steps={steps}",
        f"train.checkpoint_every={steps}",
    ]
    first = folder / next(iter(LEVELS)) / "spectrum-run" / "data"
    if first.exists():  # the same objects, drawn once
        shutil.copytree(first, folder / quantiser / "spectrum-run" / "data")
    start = time.process_time()
    written = train_codec(RECIPE, overrides, folder / quantiser)
    seconds = time.process_time() - start
    report = json.loads((written["spectrum"] / "report.json").read_text())
    return {"quantiser": quantiser, "levels": LEVELS[quantiser], "cpu_s": seconds, **report}


def main() -> None:
    """Train both and write what they reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--objects", type=int, default=6000, help="of each mock universe")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [trained(q, asked.steps, asked.objects, Path(folder)) for q in LEVELS]
    result = {
        "what": "native spectrum codec with FSQ and with LFQ; all figures are mock",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "steps": asked.steps,
        "runs": runs,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    for run in runs:
        for source in run["sources"]:
            print(run["quantiser"], source["modality"], source["figures"])


if __name__ == "__main__":
    main()
