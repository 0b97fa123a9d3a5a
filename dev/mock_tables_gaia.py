"""The Gaia XP instrument of the mock universe, from the wheel of gaiaxpy.

GaiaXPy writes an absolute spectrum as ``hc / (P R lambda) * c T C H(u)``: `c` are the archive's
coefficients, `T` the rotation and `C` the inverse bases of the file, `H` Hermite functions of the
normalised pseudo-wavelength u, `R` the response and `P` the pupil area (Montegriffo et al. 2023,
A&A 674, A3). The same arrays, read the other way round, project a spectrum on coefficients.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

PROVENANCE = {
    "table": "gaia_xp.npz",
    "origin": "gaiaxpy 2.1.5 (wheel): gaiaxpy/config/bpC03_v375wi_* and rpC03_v142r_*",
    "licence": "BSD-3-Clause; data (c) ESA/Gaia/DPAC, free to use with the acknowledgement",
    "citation": "Montegriffo et al. 2023, A&A 674, A3; De Angeli et al. 2023, A&A 674, A2; "
    "Ruz-Mieres 2022, GaiaXPy, doi:10.5281/zenodo.6637758",
    "changed": "response cut to where it is not negligible; gains of the errors added, measured "
    "on archive rows",
}

_FILES = {"bp": "bpC03_v375wi", "rp": "rpC03_v142r"}

# How much larger the archive's formal errors (without `standard_deviation`) of each coefficient
# are than those of an unweighted fit of the bases to transits with Poisson noise and background:
# the mean instrument's line spread, which the bases do not have, spreads and shrinks them.
# Geometric means over the archive's rows in the public test data of GaiaXPy with G > 13 (three in
# BP, five in RP), scatter 2 to 25 %; tests/mock/test_spectra_real.py measures them again.
ERROR_GAIN = {
    "bp": """
        1.01 1.02 1.01 1.01 1.06 1.06 1.01 2.96 1.57 1.02 1.14 1.14 1.00 1.44 1.39 1.08 1.00 0.91
        1.03 0.93 0.99 0.99 1.00 1.00 0.92 0.88 0.96 0.89 0.88 0.86 0.89 0.91 0.91 0.84 0.84 0.88
        0.89 0.86 0.86 0.82 0.85 0.82 0.70 0.74 0.69 0.58 0.64 0.65 0.55 0.50 0.46 0.31 0.32 0.23
        0.083""",
    "rp": """
        0.96 0.95 0.95 1.01 1.00 0.98 0.98 0.99 0.99 1.01 0.99 0.99 0.99 1.03 1.03 1.01 1.07 1.15
        1.31 1.03 1.11 1.03 1.04 1.02 1.00 0.98 0.98 0.96 1.06 0.98 0.96 0.94 0.87 0.86 0.85 0.77
        0.82 0.68 0.78 0.75 0.85 0.79 0.68 0.73 0.65 0.58 0.56 0.36 0.35 0.43 0.33 0.34 0.31 0.16
        0.091""",
}


def _vector(text: str) -> np.ndarray:
    return np.array([float(part) for part in text.strip('()[]" \n').split(",")])


def gaia_xp(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of ``gaia_xp.npz``.

    Parameters
    ----------
    folder : path
        ``gaiaxpy/config`` of the unpacked wheel of gaiaxpy 2.1.5.

    Returns
    -------
    dict of str to array
        For each arm (``bp_``, ``rp_``): ``bases`` (basis, Hermite) and ``rotation`` (basis, basis),
        ``range`` (pseudo-wavelengths from, to, normalised from, to), ``dispersion`` (2, node) with
        wavelength in nm and pseudo-wavelength, ``response`` (2, node) with wavelength in nm and
        photo-electrons a photon, ``error_gain`` (basis,).
    """
    csv.field_size_limit(10**8)
    arrays: dict[str, np.ndarray] = {}
    for arm, stem in _FILES.items():
        row = next(csv.DictReader((folder / f"{stem}_bases.csv").read_text().splitlines()))
        size = int(row["nBases"])
        arrays[f"{arm}_bases"] = _vector(row["inverseBasesCoefficients"]).reshape(size, -1)
        arrays[f"{arm}_rotation"] = _vector(row["transformationMatrix"]).reshape(size, -1)
        limits = ("pwlRangeMin", "pwlRangeMax", "normRangeMin", "normRangeMax")
        arrays[f"{arm}_range"] = np.array([float(row[name]) for name in limits])
        arrays[f"{arm}_dispersion"] = np.genfromtxt(
            folder / f"{stem}_dispersion.csv", delimiter=","
        )
        response = np.genfromtxt(folder / f"{stem}_response.csv", delimiter=",")
        # The rest, a millionth of the peak, is a long tail of the model without meaning.
        there = np.flatnonzero(response[1] > 1e-6 * response[1].max())
        part = slice(max(there[0] - 1, 0), there[-1] + 2)
        arrays[f"{arm}_response"] = response[:, part].astype(np.float32)
        arrays[f"{arm}_error_gain"] = np.array(ERROR_GAIN[arm].split(), dtype=np.float32)
    return arrays
