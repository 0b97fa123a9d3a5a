"""Filter curves of the mock universe, from the wheel of speclite."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PROVENANCE = {
    "table": "filters.npz",
    "origin": "speclite 1.0.0 (wheel): speclite/data/filters/*.ecsv",
    "licence": "BSD-3-Clause",
    "citation": "speclite (Kirkby et al., doi:10.5281/zenodo.8347108); curves: DECam, Flaugher et "
    "al. 2015, AJ 150, 150; WISE, Wright et al. 2010, AJ 140, 1868; HSC, Kawanomoto et al. 2018, "
    "PASJ 70, 66; Gaia DR3, Riello et al. 2021, A&A 649, A3; SDSS, Doi et al. 2010, AJ 139, 1628; "
    "2MASS, Cohen, Wheaton & Megeath 2003, AJ 126, 1090",
    "changed": "peak set to one, thinned to 3e-4 of the peak",
}

FILES = {
    **{f"decam_{b}": f"decam2014-{b}" for b in "griz"},
    **{f"wise_w{k}": f"wise2010-W{k}" for k in (1, 2, 3, 4)},
    **{f"hsc_{b}": f"hsc2017-{b}" for b in "grizy"},
    **{f"gaia_{b.lower()}": f"gaiadr3-{b}" for b in ("G", "BP", "RP")},
    **{f"sdss_{b}": f"sdss2010-{b}" for b in "ugriz"},
    **{f"twomass_{b.lower()}": f"twomass-{b}" for b in ("J", "H", "Ks")},
}


def thin(wavelength: np.ndarray, response: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the rows that a linear interpolation needs to stay within the tolerance."""
    keep = [0, len(wavelength) - 1]
    while True:
        line = np.interp(wavelength, wavelength[keep], response[keep])
        worst = int(np.argmax(np.abs(line - response)))
        if abs(line[worst] - response[worst]) <= tolerance:
            return np.array(keep)
        keep = sorted({*keep, worst})


def filters(folder: Path) -> dict[str, np.ndarray]:
    """Return wavelength (Angstrom) and response of each band, thinned to 3e-4 of the peak."""
    from astropy.table import QTable

    table = {}
    for band, name in FILES.items():
        rows = QTable.read(folder / f"{name}.ecsv")
        wavelength = rows["wavelength"].to_value("Angstrom")
        response = np.asarray(rows["response"], dtype=float)
        response = response / response.max()
        keep = thin(wavelength, response, 3e-4)
        table[f"{band}_wavelength"] = wavelength[keep].astype(np.float32)
        table[f"{band}_response"] = response[keep].astype(np.float32)
    return table
