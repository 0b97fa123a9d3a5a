"""Table of r magnitudes from which flux-limited samples of mock galaxies are drawn."""

from __future__ import annotations

import numpy as np

PROVENANCE = {
    "table": "quick.npz",
    "origin": "computed by dev/mock_tables_quick.py from the other tables",
    "licence": "this project's; the notices of populations.npz apply",
    "citation": "-",
    "changed": "-",
}


def quick() -> dict[str, np.ndarray]:
    """Return r at one Mpc for one solar mass, its change with A_V, and distance moduli to Mpc."""
    from omnisky.mock.population.cosmology import luminosity_mpc
    from omnisky.mock.sed import BANDS, SedModel
    from omnisky.mock.sed.quick import typical

    x = np.linspace(np.log1p(0.003), np.log1p(2.5), 60)
    mass = np.array([9.0, 10.0, 10.5, 11.0])
    ssfr = np.array([-13.0, -12.0, -11.3, -10.8, -10.3, -9.8, -9.3, -8.7, -8.0])
    z, m, s = (a.ravel() for a in np.meshgrid(np.expm1(x), mass, ssfr, indexing="ij"))
    r = [
        22.5
        - 2.5
        * np.log10(SedModel.load().fluxes(typical(z, m, s, a_v), False)[:, BANDS.index("decam_r")])
        for a_v in (0.0, 1.0)
    ]
    shape = (len(x), len(mass), len(ssfr))
    cube = np.stack([(r[0] + 2.5 * m).reshape(shape), (r[1] - r[0]).reshape(shape)], axis=-1)
    return {
        "log_one_plus_z": x,
        "log_mass": mass,
        "log_ssfr": ssfr,
        "r": cube.astype(np.float32),
        "modulus": 5 * np.log10(luminosity_mpc(np.expm1(x))),
        "z_min": np.array(np.expm1(x[0])),
    }
