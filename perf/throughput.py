"""Measure how fast a pretrained model tokenises, embeds and generates; write JSON.

    python perf/throughput.py --stars 2000 --repeats 5 --out throughput.json

Every speed is the median over repeats, after one unmeasured run. Embedding is also given as the
fraction of the machine's own matrix-multiplication speed, measured in the same run with the same
threads. Only multiplications of linear layers are counted on a CPU (torch does not count those of
its CPU attention), on a GPU those of attention as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from omnisky.bench.cards import environment
from omnisky.bench.methods import weights_sha256
from omnisky.data import datasets
from omnisky.modalities import Observations
from omnisky.model import Model

_GEMM_SIZE = 1024
_INPUTS = ("gaia_xp", "gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")


def seconds(task: Callable[[], Any], repeats: int) -> list[float]:
    """Return the wall seconds of each repeat, after one run that is not measured."""
    task()
    measured = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        task()
        _wait()
        measured.append(time.perf_counter() - start)
    return measured


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gemm_flops(repeats: int, device: torch.device) -> float:
    """Return the float32 matrix-multiplication speed of this machine, in operations a second."""
    a, b = (torch.randn(_GEMM_SIZE, _GEMM_SIZE, device=device) for _ in range(2))
    once = statistics.median(seconds(lambda: a @ b, max(20, repeats)))
    return 2 * _GEMM_SIZE**3 / once


def stars(name: str, count: int) -> Observations:
    """Return this many stars, repeated in order where the data set has fewer."""
    data = datasets.load(name)
    rows = torch.arange(count).remainder(len(data)).numpy()
    return data.observations.select(*_INPUTS)[rows]


def speed(task: Callable[[], Any], count: int, repeats: int) -> dict[str, float]:
    """Return stars a second: the median, and the slowest and fastest repeat."""
    measured = seconds(task, repeats)
    return {
        "stars_per_second": count / statistics.median(measured),
        "slowest": count / max(measured),
        "fastest": count / min(measured),
        "repeats": repeats,
    }


def measure(
    model: Model, observations: Observations, target: str, repeats: int, samples: int
) -> dict[str, Any]:
    """Return the speeds of one model.

    Parameters
    ----------
    model : Model
        Pretrained model.
    observations : Observations
        Stars to work on; generation takes a tenth of them.
    target : str
        Modality to generate from all others.
    repeats : int
        Measured runs of each.
    samples : int
        Samples a star when generating.
    """
    device = next(model.network.parameters()).device
    tokens = model.tokenize(observations)
    given = observations.select(*(name for name in observations if name != target))
    few = given[slice(0, max(1, len(tokens) // 10))]
    with FlopCounterMode(display=False) as counter:
        model.embed(tokens)
    # The machine's speed is taken before and after: on a shared machine it changes meanwhile.
    before = gemm_flops(repeats, device)
    embed = speed(lambda: model.embed(tokens), len(tokens), repeats)
    gemm = statistics.mean([before, gemm_flops(repeats, device)])
    achieved = counter.get_total_flops() / len(tokens) * embed["stars_per_second"]
    return {
        "tokenise": speed(lambda: model.tokenize(observations), len(tokens), repeats),
        "embed": {
            **embed,
            "tokens_per_star": tokens.shape[1],
            "flop_per_star": counter.get_total_flops() / len(tokens),
            "gflop_per_second": achieved / 1e9,
            "fraction_of_gemm": achieved / gemm,
        },
        "generate": {
            **speed(lambda: model.generate(few, target, n_samples=samples), len(few), repeats),
            "target": target,
            "samples": samples,
        },
        "gemm_gflop_per_second": gemm / 1e9,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--base", default="nano", help="pretrained model or its folder (nano)")
    parser.add_argument("--dataset", default="gaia-apogee-mini", help="where the stars come from")
    parser.add_argument(
        "--stars", type=int, default=2000, help="how many; repeated if needed (2000)"
    )
    parser.add_argument("--target", default="apogee_fe_h", help="what to generate (apogee_fe_h)")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs (5)")
    parser.add_argument("--samples", type=int, default=16, help="samples when generating (16)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--least-embed",
        type=float,
        default=0.0,
        help="fail below this many stars embedded a second",
    )
    return parser


def main() -> int:
    """Measure, print, write; return 1 if a threshold is missed."""
    asked = _parser().parse_args()
    model = Model.from_pretrained(asked.base)
    if torch.cuda.is_available():
        model.network.cuda()
    observations = stars(asked.dataset, asked.stars)
    measured = measure(model, observations, asked.target, asked.repeats, asked.samples)
    found = {
        "base": asked.base,
        "weights_sha256": weights_sha256(asked.base),
        "stars": asked.stars,
        **measured,
        **environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    embedded = measured["embed"]["stars_per_second"]
    if embedded < asked.least_embed:
        print(
            f"embeds {embedded:.0f} stars a second, below the threshold of {asked.least_embed:.0f}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
