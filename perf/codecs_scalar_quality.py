"""Measure what scalar codecs lose, in units of the measurement errors; write JSON.

    python perf/codecs_scalar_quality.py --out perf/results/codecs_scalar_quality.json

Numbers go through a token and back. Codecs are fitted to training objects and measured on others:
the test split of the stars with APOGEE labels (real), half of a mock universe (mock), and, of the
real XP coefficients without errors in the survey files, every fifth. Given for each quantity and
scale: the median loss in the quantity's unit; the root mean square, median and share below one of
the loss over the object's own error; the mean loss over its root mean square, which an unbiased
codec has near zero; and how many bins, in powers of two, are the least with which 95 of 100 test
objects lose less than their error. The peer's quantiser stands beside, fitted to the same values.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisky.bench.cards import environment
from omnisky.codecs import ScalarCodec
from omnisky.codecs.scalars.coefficients import CoefficientsCodec
from omnisky.data import datasets
from omnisky.mock import Universe
from omnisky.modalities import Coefficients, Scalar

MOCK = {
    "legacysurvey": [f"legacysurvey_flux_{b}" for b in ("g", "r", "i", "z", "w1", "w2", "w3", "w4")]
    + [f"legacysurvey_shape_{part}" for part in ("r", "e1", "e2")],
    "hsc": [f"hsc_{b}_cmodel_mag" for b in "grizy"],
    "gaia": [
        *(f"gaia_{b}" for b in ("g", "bp", "rp")),
        *(f"gaia_flux_{b}" for b in ("g", "bp", "rp")),
        "gaia_parallax",
    ],
    "desi": ["desi_z"],
}
LOG_OF_PEER = ("legacysurvey_flux", "legacysurvey_shape_r", "gaia_flux", "gaia_parallax")
SCALES = ("quantile", "log", "error")
Pair = tuple[Scalar, Scalar]


def losses(decoded: np.ndarray, given: Any) -> dict[str, float]:
    """Return figures of what was lost."""
    loss = (decoded.astype(np.float64) - given.value)[given.mask]
    found = {
        "median_loss": float(np.median(np.abs(loss))),
        "mean_over_rms": float(loss.mean() / np.sqrt(np.mean(loss**2))),
    }
    ivar = given.ivar[given.mask]
    if (ivar > 0).any():
        z = np.abs(loss[ivar > 0]) * np.sqrt(ivar[ivar > 0])
        found |= {
            "rms_over_error": float(np.sqrt(np.mean(z**2))),
            "median_over_error": float(np.median(z)),
            "share_below_error": float(np.mean(z < 1)),
        }
    return found


def through_peer(name: str, pair: Pair) -> np.ndarray:
    """Return what the peer's quantiser, fitted to the same values, makes of the others."""
    from aion.codecs.quantizers import scalar as peer

    train, test = (torch.from_numpy(part.value.astype(np.float32)) for part in pair)
    log = name.startswith(LOG_OF_PEER)
    kind = peer.ScalarLogReservoirQuantizer if log else peer.ScalarReservoirQuantizer
    quantiser = kind(1024, int(pair[0].mask.sum()))
    quantiser._update_reservoirs(train[torch.from_numpy(pair[0].mask)])
    return quantiser.decode(quantiser.encode(test)).numpy()


def bins_needed(pair: Pair, scale: str) -> int | None:
    """Return the least power of two of bins with which 95 % lose less than their error."""
    for power in range(6, 17):
        if 2**power * 2 > pair[0].mask.sum():
            return None
        codec = ScalarCodec.fit(pair[0], modality="any", bins=2**power, scale=scale)
        decoded = codec.decode(*codec.encode_masked(pair[1])).value
        if losses(decoded, pair[1]).get("share_below_error", 0.0) >= 0.95:
            return 2**power
    return None


def scalar_rows(name: str, data: str, pair: Pair) -> list[dict[str, Any]]:
    """Return a row for each scale, and one for the peer."""
    rows = []
    facts = {"modality": name, "data": data, "train": int(pair[0].mask.sum())}
    facts["test"] = int(pair[1].mask.sum())
    known = bool((pair[1].ivar > 0).any())
    for scale in SCALES:
        if scale == "log" and not known and pair[0].value[pair[0].mask].min() <= 0:
            continue
        codec = ScalarCodec.fit(pair[0], modality=name, scale=scale)
        decoded = codec.decode(*codec.encode_masked(pair[1])).value
        row = {**facts, "scale": scale, "bins": 1024, **losses(decoded, pair[1])}
        rows.append(row | ({"bins_needed": bins_needed(pair, scale)} if known else {}))
    fine = ScalarCodec.fit(pair[0], modality=name, tokens=2)
    decoded = fine.decode(*fine.encode_masked(pair[1])).value
    row = {**facts, "scale": "quantile, two tokens", "bins": 1024}
    rows.append(row | losses(decoded, pair[1]))
    row = {**facts, "scale": "aion-0.0.2", "bins": 1024}
    return [*rows, row | losses(through_peer(name, pair), pair[1])]


def stars() -> list[dict[str, Any]]:
    """Return rows of the real stars."""
    data = datasets.load("gaia-apogee")
    train, test = data["train"], data["test"]
    rows = []
    for group in ("observations", "labels"):
        for name, measured in getattr(train, group).items():
            if isinstance(measured, Scalar):
                rows += scalar_rows(name, "real", (measured, getattr(test, group)[name]))
    return rows


def mock_scalars(universe: Universe) -> list[dict[str, Any]]:
    """Return rows of mock catalogues: fitted to even objects, measured on odd ones."""
    rows = []
    for survey, names in MOCK.items():
        observed = universe.observe(survey, modalities=names).observations
        for name in names:
            rows += scalar_rows(name, "mock", (observed[name][::2], observed[name][1::2]))
    return rows


def coefficient_rows(data: str, train: Coefficients, test: Coefficients) -> list[dict[str, Any]]:
    """Return rows of XP coefficients: relative to the first one and as they are."""
    rows = []
    for scale, parts in (("error", 2), ("quantile", 2), ("quantile", 0)):
        codec = CoefficientsCodec.fit(
            train, modality="gaia_xp_coefficients", scale=scale, parts=parts
        )
        decoded = codec.decode(*codec.encode_masked(test)).value
        apart = np.where(test.mask, decoded - test.value, 0.0)
        size = np.linalg.norm(np.where(test.mask, test.value, 0.0), axis=1)
        row = {
            "modality": "gaia_xp_coefficients",
            "data": data,
            "train": len(train),
            "test": len(test),
            "scale": f"{scale}, {'relative' if parts else 'as they are (as AION-1)'}",
            "bins": 1024,
            **losses(decoded, test),
            "median_relative_distance": float(np.median(np.linalg.norm(apart, axis=1) / size)),
        }
        if (test.ivar > 0).any():
            chi2 = (apart**2 * test.ivar).sum(1) / test.mask.sum(1)
            row["median_star_rms_over_error"] = float(np.median(np.sqrt(chi2)))
        rows.append(row)
    return rows


def mock_coefficients(universe: Universe) -> list[dict[str, Any]]:
    """Return rows of mock XP coefficients, which have errors."""
    there = universe.truth["has_xp"].filled(False) & universe.truth["in_gaia"].filled(False)
    observed = universe.observe(
        "gaia", np.flatnonzero(there), modalities=["gaia_xp_coefficients"]
    ).observations["gaia_xp_coefficients"]
    test = np.arange(len(observed)) % 5 == 0
    return coefficient_rows("mock", observed[~test], observed[test])


def real_coefficients(folder: Path) -> list[dict[str, Any]]:
    """Return rows of real XP coefficients without errors, if the survey files are at hand."""
    import pyarrow.parquet as pq

    path = folder / "gaia_xp_coefficients.parquet"
    if not path.is_file():
        return []
    table = pq.read_table(path)
    arms = [np.array(table[f"{arm}_coefficients"].to_pylist()) for arm in ("bp", "rp")]
    observed = Coefficients(np.concatenate(arms, axis=1))
    test = np.arange(len(observed)) % 5 == 0
    return coefficient_rows("real, without errors", observed[~test], observed[test])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--objects", type=int, default=30_000, help="of the mock universe (30000)")
    parser.add_argument("--xp-objects", type=int, default=60_000, help="for XP (60000)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    real = Path(os.environ.get("OMNISKY_REAL_DATA", "../shared/data"))
    rows = stars() + mock_scalars(Universe(seed=11, n=asked.objects).hold())
    rows += mock_coefficients(Universe(seed=12, n=asked.xp_objects).hold())
    rows += real_coefficients(real)
    for row in rows:
        loss = f"{row.get('rms_over_error', float('nan')):9.3f} "
        loss += f"{row.get('share_below_error', float('nan')):7.3f} {row.get('bins_needed')}"
        print(f"{row['data']:8.8s} {row['modality']:24s} {row['scale']:12.12s} {loss}")
    found = {"objects": asked.objects, "xp_objects": asked.xp_objects, "rows": rows}
    found |= {**environment(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
