"""Simple stellar populations of the mock universe: the stellar library over its isochrones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mock_tables_stars import BLUE, MILES, RED, at, packed, read_isochrones

PROVENANCE = {
    "table": "populations.npz",
    "origin": "computed by dev/mock_tables_populations.py from stars.npz, atmospheres.npz and the "
    "isochrones of fastar-astro 0.1.2",
    "licence": "this project's; its inputs' notices apply (MIT, Copyright (c) 2026 Ignacio Martin "
    "Navarro)",
    "citation": "as stars.npz and isochrones.npz; Kroupa 2001, MNRAS 322, 231; Tout et al. 1996, "
    "MNRAS 281, 257; Hurley, Pols & Tout 2000, MNRAS 315, 543; Kalirai et al. 2008, ApJ 676, 594",
    "changed": "-",
}

# The grid of the populations: far ultraviolet, the library's own pixels, coarse infrared.
ULTRAVIOLET = np.arange(902.0, 2002.0, 4.0)
INFRARED = np.geomspace(11500.0, 300000.0, 160)
WAVELENGTH = np.concatenate([ULTRAVIOLET, BLUE, MILES, RED, INFRARED])
# Gyr. Edges between them fall on 10 and 100 Myr, where the components of a galaxy part.
AGES = np.concatenate(
    [
        np.geomspace(0.001, 0.0085, 7),
        np.geomspace(0.0118, 0.087, 8),
        np.geomspace(0.115, 13.8, 26),
    ]
)
METALS = np.array([-1.9, -1.4, -0.9, -0.6, -0.4, -0.2, 0.06, 0.3])
N_YOUNG, N_OLD = 20, 40


def kroupa(mass: np.ndarray) -> np.ndarray:
    """Return stars per solar mass formed and per solar mass (Kroupa 2001), 0.08 to 120."""

    def shape(m):
        return np.where(m < 0.5, (m / 0.5) ** -1.3, (m / 0.5) ** -2.3)

    grid = np.geomspace(0.08, 120.0, 4000)
    return shape(mass) / np.trapezoid(shape(grid) * grid, grid)


def zero_age(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return luminosity and radius on the zero-age main sequence (Tout et al. 1996, Z = 0.02)."""
    m = mass
    luminosity = (0.39704170 * m**5.5 + 8.52762600 * m**11) / (
        0.00025546
        + m**3
        + 5.43288900 * m**5
        + 5.56357900 * m**7
        + 0.78866060 * m**8
        + 0.00586685 * m**9.5
    )
    radius = (
        1.71535900 * m**2.5
        + 6.59778800 * m**6.5
        + 10.08855000 * m**11
        + 1.01249500 * m**19
        + 0.07490166 * m**19.5
    ) / (0.01077422 + 3.08223400 * m**2 + 17.84778000 * m**8.5 + m**18.5 + 0.00022582 * m**19.5)
    return luminosity, radius


def lifetime(mass: np.ndarray) -> np.ndarray:
    """Return the main-sequence lifetime in Gyr (Hurley, Pols & Tout 2000, equation 4, Z = 0.02)."""
    m = mass
    return (
        (1.593890e3 + 2.706708e3 * m**4 + 1.466143e2 * m**5.5 + m**7)
        / (4.141960e-2 * m**2 + 3.426349e-1 * m**7)
        / 1000
    )


def massive(age: float) -> np.ndarray:
    """Return mass, log T, log g, log L of stars of 8 to 120 solar masses at an age below 20 Myr.

    On the main sequence they brighten by 0.4 dex and swell by 0.4 dex in radius; then they spend
    a tenth of that life as supergiants, red below 25 solar masses (Meynet & Maeder 2003, in round
    numbers). BaSTI's isochrones begin at 20 Myr.
    """
    mass = np.geomspace(8.0, 120.0, 400)
    luminosity, radius = zero_age(mass)
    spent = age / lifetime(mass)
    log_l = np.log10(luminosity) + 0.4 * np.minimum(spent, 1) + 0.1 * (spent > 1)
    log_r = np.log10(radius) + 0.4 * np.minimum(spent, 1) ** 2
    log_t = 3.7617 + 0.25 * log_l - 0.5 * log_r
    log_t = np.where(spent > 1, np.where(mass < 25, np.log10(3900.0), 4.2), log_t)
    logg = 4.438 + np.log10(mass) + 4 * (log_t - 3.7617) - log_l
    return np.stack([mass, log_t, logg, log_l])[:, spent < 1.1]


def left_behind(mass: np.ndarray) -> np.ndarray:
    """Return the mass of the remnant: Kalirai+ (2008) white dwarfs, then neutron stars, holes."""
    return np.where(mass < 8.5, 0.109 * mass + 0.394, np.where(mass < 40, 1.4, 0.5 * mass))


def population(age: float, metal: int, isochrones) -> tuple[np.ndarray, np.ndarray, float]:
    """Return stars (mass, log T, log g, log L), their number weights and the living mass."""
    ages, _, cube = isochrones
    rows = at(ages, cube, max(age, ages[0]))[:, :, metal]
    rows = rows[:, np.unique(np.r_[0:2100:5, 2099])]
    stars, left = rows[:4], rows[4]
    if age < ages[0]:
        keep = stars[0] < 8.0
        top = massive(age)
        stars = np.concatenate([stars[:, keep], top], axis=1)
        left = np.concatenate([left[keep], top[0]])
    order = np.argsort(stars[0], kind="stable")
    stars, left = stars[:, order], left[order]
    weight = kroupa(stars[0]) * np.gradient(stars[0])
    dead = np.geomspace(stars[0].max(), 120.0, 400)
    remnants = np.trapezoid(kroupa(dead) * left_behind(dead), dead)
    below = np.geomspace(0.08, 0.1, 20)
    faint = np.trapezoid(kroupa(below) * below, below)
    return stars, weight, float(np.sum(weight * left) + remnants + faint)


def spectra(assets: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return L_lambda (Lsun / A per Msun formed), (metal, age, pixel), and the living mass."""
    from omnisky.mock.sed.stars import StellarLibrary

    class Pixels:
        """Stand in for a grid: the library needs wavelengths and edges only."""

        wavelength = WAVELENGTH
        edges = np.concatenate(
            [[900.0], 0.5 * (WAVELENGTH[1:] + WAVELENGTH[:-1]), [WAVELENGTH[-1] * 1.01]]
        )

        def __len__(self) -> int:
            return len(self.wavelength)

    library = StellarLibrary(Pixels())  # pyright: ignore[reportArgumentType]
    isochrones = read_isochrones(assets)
    light = np.zeros((len(METALS), len(AGES), len(WAVELENGTH)))
    living = np.zeros((len(METALS), len(AGES)))
    for i, metal in enumerate(METALS):
        row = int(np.argmin(np.abs(isochrones[1] - metal)))
        for j, age in enumerate(AGES):
            stars, weight, living[i, j] = population(age, row, isochrones)
            feh = np.full(stars.shape[1], metal)
            flux = library.spectra(10 ** stars[1], stars[2], feh)
            light[i, j] = (weight * 10 ** stars[3]) @ flux
    return light, living


def compressed(light: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coefficients (..., n), basis (n, pixel) and pixel scale, by singular values.

    Spectra and pixels are scaled by their geometric means, so that no age and no wavelength
    dominates; the far ultraviolet, dark in the old, counts less.
    """
    flat = light.reshape(-1, light.shape[-1])
    column = np.exp(np.mean(np.log(flat / flat.mean(1, keepdims=True) + 1e-12), axis=0))
    column = column / np.where(WAVELENGTH < 2000.0, 0.1, np.where(WAVELENGTH < 2600.0, 0.5, 1.0))
    optical = (WAVELENGTH > 3500.0) & (WAVELENGTH < 9000.0)
    scaled = flat / column
    row = np.exp(np.mean(np.log(scaled[:, optical]), axis=1, keepdims=True))
    u, s, vt = np.linalg.svd(scaled / row, full_matrices=False)
    residual = np.abs((u[:, :n] * s[:n]) @ vt[:n] * row * column / flat - 1)
    for low, high in ((1216, 2000), (2000, 3540), (3540, 7400), (7400, 11500), (11500, 3e5)):
        part = residual[:, (low <= WAVELENGTH) & (high > WAVELENGTH)]
        middle, bad = np.percentile(part, [50, 95])
        print(f"  {n} components, {low}-{high:.0f} A: off by {middle:.2%}, 95 % within {bad:.2%}")
    return (u[:, :n] * s[:n] * row).reshape(*light.shape[:-1], n), vt[:n], column


def populations(assets: Path) -> dict[str, np.ndarray]:
    """Return the table of populations: young (below 100 Myr) and old ones apart."""
    light, living = spectra(assets)
    n_young = int(np.sum(AGES < 0.1))
    table = {
        "age": AGES,
        "feh": METALS,
        "living": living,
        "wavelength": WAVELENGTH.astype(np.float32),
    }
    for name, part, n in (
        ("young", light[:, :n_young], N_YOUNG),
        ("old", light[:, n_young:], N_OLD),
    ):
        coefficients, basis, column = compressed(part, n)
        table[f"{name}_column"] = column
        table[f"{name}_coefficients"] = coefficients.astype(np.float32)
        table[f"{name}_basis"], table[f"{name}_basis_scale"] = packed(basis)
    return table
