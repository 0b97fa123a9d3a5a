"""Quasar spectra of the mock universe: principal components and real coefficients, from pypeit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PROVENANCE = {
    "table": "quasars.npz",
    "origin": "pypeit 2.0.1 (wheel): pypeit/data/telluric/models/qso_pca_1200_3100.fits and "
    "qso_pca_2200_5100.fits",
    "licence": "BSD-3-Clause",
    "citation": "Davies et al. 2018, ApJ 864, 143 (components); Prochaska et al. 2020, JOSS 5, "
    "2308 (PypeIt); spectra behind them: SDSS/BOSS, Paris et al. 2017, A&A 597, A79",
    "changed": "float32; each coefficient vector of the red set paired with one of the blue set",
}


def quasars(folder: Path) -> dict[str, np.ndarray]:
    """Return components of ln flux and the coefficient vectors of real quasars (Davies+ 2018).

    `partner` gives each quasar of the red sample (2200-5100 A) the one of the blue sample (1200-
    3100 A) whose shape agrees best where the two overlap.
    """
    from astropy.io import fits

    table, shape = {}, {}
    for name, file in (("blue", "qso_pca_1200_3100"), ("red", "qso_pca_2200_5100")):
        row = fits.getdata(folder / f"{file}.fits", 1)[0]
        wave = np.ravel(row["WAVE_PCA"]).astype(float)
        basis = np.asarray(row["PCA_COMP"], dtype=float).reshape(-1, len(wave))
        rows = np.asarray(row["PCA_COEFFS"], dtype=float).reshape(-1, len(basis))
        table[f"{name}_wavelength"] = wave.astype(np.float32)
        table[f"{name}_basis"] = basis.astype(np.float32)
        table[f"{name}_coefficients"] = rows.astype(np.float32)
        grid = np.linspace(2210.0, 3090.0, 200)
        shape[name] = rows @ np.stack([np.interp(grid, wave, b) for b in basis])
    for key, values in shape.items():
        shape[key] = values - values.mean(1, keepdims=True)
    distance = (
        (shape["red"] ** 2).sum(1)[:, None]
        + (shape["blue"] ** 2).sum(1)
        - 2 * shape["red"] @ shape["blue"].T
    )
    table["partner"] = np.argmin(distance, axis=1).astype(np.int16)
    return table
