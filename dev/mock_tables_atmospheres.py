"""Model atmospheres of hydrogen (and helium) for white dwarfs and hot stars, computed here.

No table of hot stars' fluxes comes with a licence that lets one ship it, so these are our own:
plane-parallel, hydrostatic, local thermodynamic equilibrium, radiative equilibrium by the
correction of Unsold and Lucy (Mihalas 1978, section 7-2), radiative transfer in the Eddington
approximation with scattering. Opacities: bound-free and free-free hydrogen with levels dissolved
by ions (Hummer & Mihalas 1988), the hydrogen lines with quasi-static Stark wings, the negative
hydrogen ion, electron scattering. Helium of hot stars adds mass and electrons only; metals are
left out.
"""

from __future__ import annotations

import numpy as np

PROVENANCE = {
    "table": "atmospheres.npz",
    "origin": "computed by dev/mock_tables_atmospheres.py",
    "licence": "this project's",
    "citation": "Mihalas 1978, Stellar Atmospheres; Hummer & Mihalas 1988, ApJ 331, 794; Gray "
    "2005, The Observation and Analysis of Stellar Photospheres; Griem 1960, ApJ 132, 883",
    "changed": "-",
}

H, C, K, E_V = 6.62607e-27, 2.99792458e10, 1.380649e-16, 1.602177e-12
M_E, M_H, ELECTRON = 9.10938e-28, 1.6735e-24, 4.80320e-10
RYDBERG, THOMSON = 13.5984, 6.6524e-25
SIGMA = 5.670374e-5
N_LEVELS = 24
TAU = np.logspace(-6, 2.3, 64)

WAVELENGTH = np.concatenate(
    [np.exp(np.arange(np.log(902.0), np.log(11500.0), 5e-4)), np.geomspace(11510.0, 3e5, 50)]
)
DWARF_TEFF = 1e3 * np.array(
    [4, 5, 6, 7, 8, 9, 10, 11, 12, 13.5, 15, 17, 20, 25, 30, 40, 60, 80], dtype=float
)
STAR_TEFF = 1e3 * np.array([11, 12.5, 14, 16, 18, 20, 23, 26, 30, 35, 40, 50], dtype=float)
DWARF_LOGG, STAR_LOGG = np.array([7.0, 8.0, 9.0]), np.array([2.5, 3.5, 4.5])
N_COMPONENTS = 14


def ionisation(t, p, helium: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return electrons, protons and neutral hydrogen per cm3 of gas at T (K) and pressure."""
    total = p / (K * t)
    saha = 2 / 2.0 * (2 * np.pi * M_E * K * t / H**2) ** 1.5 * np.exp(-RYDBERG * E_V / (K * t))
    electrons, protons = 0.3 * total, np.zeros_like(total)
    for _ in range(60):
        hydrogen = np.maximum(total - electrons, 1e-30 * total) / (1 + helium)
        second = helium * hydrogen / (1 + np.exp(2.9e5 / t - 12.0))  # He I ionised above 24 kK
        protons = hydrogen * saha / (electrons + saha)
        electrons = 0.5 * electrons + 0.5 * np.maximum(protons + second, 1e-12 * total)
    hydrogen = (total - electrons) / (1 + helium)
    return electrons, protons, np.maximum(hydrogen - protons, 1e-30 * total)


def occupation(n: np.ndarray, protons: np.ndarray) -> np.ndarray:
    """Return the chance that level n survives the field of ions (Hummer & Mihalas 1988, 4.71)."""
    k = np.where(n <= 3, 1.0, 16 / 3 * n / (n + 1) ** 2 * (n + 7 / 6) / (n**2 + n + 0.5))
    energy = RYDBERG * E_V / n**2
    radius = ELECTRON**2 / (np.sqrt(k) * energy)
    return np.exp(-4 * np.pi / 3 * 16 * radius**3 * protons)


def negative_ion(angstrom, t, electrons) -> np.ndarray:
    """Return absorption of H- per neutral atom (Gray 2005, equations 8.12 and 8.13), cm2."""
    w = np.clip(angstrom, 1500.0, 16000.0)
    coefficients = (
        1.99654,
        -1.18267e-5,
        2.64243e-6,
        -4.40524e-10,
        3.23992e-14,
        -1.39568e-18,
        2.78701e-23,
    )
    bound = np.maximum(sum(c * w**i for i, c in enumerate(coefficients)), 0.0)
    bound = np.where(angstrom < 16000.0, bound, 0.0) * 1e-18
    theta = 5040.0 / t
    pressure = electrons * K * t
    x, y = np.log10(np.maximum(angstrom, 2600.0)), np.log10(np.clip(theta, 0.3, 2.0))
    f0 = -2.2763 - 1.6850 * x + 0.76661 * x**2 - 0.0533464 * x**3
    f1 = 15.2827 - 9.2846 * x + 1.99381 * x**2 - 0.142631 * x**3
    f2 = -197.789 + 190.266 * x - 67.9775 * x**2 + 10.6913 * x**3 - 0.625151 * x**4
    free = 1e-26 * pressure * 10 ** (f0 + f1 * y + f2 * y**2)
    stimulated = 1 - np.exp(-np.minimum(1.438777e8 / (angstrom * t), 300.0))
    bound = 4.158e-10 * bound * pressure * theta**2.5 * 10 ** (0.754 * theta) * stimulated
    return np.where(t < 12000.0, bound + free, 0.0)


def oscillator(n: int, m: int) -> float:
    """Return the oscillator strength of n to m: exact for the first ones, else by Kramers."""
    known = {
        (1, 2): 0.4162,
        (1, 3): 0.0791,
        (1, 4): 0.0290,
        (2, 3): 0.6407,
        (2, 4): 0.1193,
        (2, 5): 0.0447,
        (2, 6): 0.0221,
        (3, 4): 0.8421,
        (3, 5): 0.1506,
    }
    kramers = 32 / (3 * np.pi * np.sqrt(3)) * (1 / n**2 - 1 / m**2) ** -3 / (n**5 * m**3)
    gaunt = {1: 0.80, 2: 0.87, 3: 0.90}.get(n, 0.93)
    return known[n, m] if (n, m) in known else float(kramers) * gaunt


def hydrogen(angstrom, t, electrons, protons, neutral) -> np.ndarray:
    """Return absorption of hydrogen without stimulated emission, 1/cm, (depth, wavelength)."""
    w = angstrom[None, :]
    t, electrons, protons, neutral = (x[:, None] for x in (t, electrons, protons, neutral))
    nu = C / (w * 1e-8)
    kappa = 3.692e8 * electrons * protons / np.sqrt(t) / nu**3  # free-free, Gaunt factor 1
    field = 1.25e-9 * np.maximum(electrons, 1.0) ** (2 / 3)
    partition = 2.0
    for n in range(1, 7):
        boltzmann = 2 * n**2 / partition * np.exp(-RYDBERG * E_V * (1 - 1 / n**2) / (K * t))
        level = neutral * boltzmann * occupation(np.array(float(n)), protons)
        edge = RYDBERG * E_V / n**2 / H
        inverse = 1 / n**2 - nu * H / (RYDBERG * E_V)
        reached = 1 / np.sqrt(np.maximum(inverse, 1e-6))  # quantum number below the edge
        dissolved = np.where(inverse > 0, 1 - occupation(np.clip(reached, n + 1, 300), protons), 1)
        # The theory overrates the pseudo-continuum far from the edge: it ends at the second line.
        dissolved = dissolved * np.clip((reached - n - 1.5), 0.0, 1.0)
        dissolved = np.where(inverse > 0, dissolved, 1.0)
        kappa = kappa + level * 7.906e-18 * n * (edge / nu) ** 3 * dissolved
        if n > 3:
            continue
        for m in range(n + 1, N_LEVELS):
            kappa = kappa + level * line(w, n, m, t, field) * occupation(
                np.array(float(m)), protons
            )
    return kappa


def line(w, n: int, m: int, t, field) -> np.ndarray:
    """Return the cross-section of a hydrogen line per absorber, cm2.

    A smooth profile with the quasi-static wing |d lambda|^-5/2 of ions and electrons (Griem 1960)
    in the scaled shift of Underhill & Waddell (1959), over a Doppler core.
    """
    centre = 911.753 / (1 / n**2 - 1 / m**2)
    scale = 5.5e-5 * (n * m) ** 4 / (m**2 - n**2) * field * 2.35
    doppler = centre * np.sqrt(2 * K * t / M_H) / C
    width = np.hypot(scale, doppler)
    shift = np.abs(w - centre)
    wing = 0.4174 / width * (1 + (shift / width) ** 2) ** -1.25
    cross = np.pi * ELECTRON**2 / (M_E * C) * oscillator(n, m)
    # Not further than to the next line: beyond, the lines of the series overlap anyway.
    return np.where(shift < 0.25 * centre, cross * wing * (centre * 1e-8) ** 2 / C * 1e8, 0.0)


def opacity(angstrom, t, p, helium: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return absorption and scattering per gram, (depth, wavelength) and (depth,); density."""
    electrons, protons, neutral = ionisation(t, p, helium)
    density = (neutral + protons) * M_H * (1 + 4 * helium)
    true = hydrogen(angstrom, t, electrons, protons, neutral)
    true = true * (1 - np.exp(-np.minimum(1.438777e8 / (angstrom * t[:, None]), 300.0)))
    true = true + neutral[:, None] * negative_ion(angstrom[None], t[:, None], electrons[:, None])
    rayleigh = neutral[:, None] * 5.8e-13 / np.maximum(angstrom, 1300.0) ** 4
    return (
        true / density[:, None],
        (electrons[:, None] * THOMSON + rayleigh) / density[:, None],
        density,
    )


def planck(angstrom, t) -> np.ndarray:
    """Return B_lambda per Angstrom, (depth, wavelength)."""
    cm = angstrom * 1e-8
    return 2 * H * C**2 / cm**5 / np.expm1(np.minimum(H * C / (cm * K * t[:, None]), 600)) * 1e-8


def transfer(tau, thermal, source) -> tuple[np.ndarray, np.ndarray]:
    """Solve the moment equation J'' / 3 = eps (J - B); return J and H, (depth, wavelength)."""
    n = len(tau)
    d = np.diff(tau, axis=0)
    a, b, c = np.zeros_like(tau), np.ones_like(tau), np.zeros_like(tau)
    r = np.zeros_like(tau)
    middle = 0.5 * (d[1:] + d[:-1])
    a[1:-1], c[1:-1] = -1 / (3 * d[:-1] * middle), -1 / (3 * d[1:] * middle)
    b[1:-1] = thermal[1:-1] - a[1:-1] - c[1:-1]
    r[1:-1] = thermal[1:-1] * source[1:-1]
    # Top: H = J / sqrt(3), to second order; bottom: diffusion.
    b[0] = 1 / np.sqrt(3) + 1 / (3 * d[0]) + 0.5 * d[0] * thermal[0]
    c[0], r[0] = -1 / (3 * d[0]), 0.5 * d[0] * thermal[0] * source[0]
    r[-1] = source[-1]
    for i in range(1, n):
        factor = a[i] / b[i - 1]
        b[i] = b[i] - factor * c[i - 1]
        r[i] = r[i] - factor * r[i - 1]
    j = np.empty_like(tau)
    j[-1] = r[-1] / b[-1]
    for i in range(n - 2, -1, -1):
        j[i] = (r[i] - c[i] * j[i + 1]) / b[i]
    h = np.empty_like(tau)
    h[0] = j[0] / np.sqrt(3)
    h[1:-1] = 0.5 * ((j[1:-1] - j[:-2]) / d[:-1] + (j[2:] - j[1:-1]) / d[1:]) / 3
    h[-1] = (j[-1] - j[-2]) / d[-1] / 3
    return j, h


def optical_depth(total, mass) -> np.ndarray:
    """Integrate opacity over column mass, (depth, wavelength)."""
    step = np.diff(mass)[:, None] * 0.5 * (total[1:] + total[:-1])
    return np.concatenate([total[:1] * mass[0], total[:1] * mass[0] + np.cumsum(step, axis=0)])


def atmosphere(teff: float, logg: float, helium: float, n_iterations: int = 40) -> np.ndarray:
    """Return the emergent flux F_lambda over sigma Teff^4 on `WAVELENGTH`, 1 / Angstrom."""
    coarse = np.unique(
        np.concatenate(
            [
                np.geomspace(120.0, 911.0, 60),
                np.geomspace(912.5, 3640.0, 120),
                np.geomspace(3650.0, 12000.0, 160),
                np.geomspace(12200.0, 2e5, 40),
            ]
        )
    )
    weight = np.gradient(coarse)
    t = teff * (0.75 * (TAU + 2 / 3)) ** 0.25
    mean = np.ones(len(TAU))
    for _ in range(20):
        mass, p, mean = hydrostatic(teff, logg, t, mean, (coarse, weight), helium)
    for k in range(n_iterations):
        mass, p, mean = hydrostatic(teff, logg, t, mean, (coarse, weight), helium)
        true, scattering, _ = opacity(coarse, t, p, helium)
        total = true + scattering
        source = planck(coarse, t)
        j, h = transfer(optical_depth(total, mass), true / total, source)
        t = corrected(teff, t, (mass, true, total), source, (j, h), weight, 0.93**k)
    mass, p, mean = hydrostatic(teff, logg, t, mean, (coarse, weight), helium)
    true, scattering, _ = opacity(WAVELENGTH, t, p, helium)
    total = true + scattering
    _, h = transfer(optical_depth(total, mass), true / total, planck(WAVELENGTH, t))
    rough = opacity(coarse, t, p, helium)
    both = rough[0] + rough[1]
    _, check = transfer(optical_depth(both, mass), rough[0] / both, planck(coarse, t))
    error = 4 * np.pi * np.sum(check[0] * weight) / (SIGMA * teff**4) - 1
    print(f"  {teff:.0f} K, log g {logg}: flux off by {error:.1%} before scaling")
    return 4 * np.pi * np.maximum(h[0], 0) / (SIGMA * teff**4) / (1 + error)


def hydrostatic(teff, logg, t, mean, grid, helium):
    """Return column mass, gas pressure and Rosseland mean at `TAU`, one step nearer to accord."""
    wavelength, weight = grid
    gravity = 10.0**logg
    mass = TAU[0] / mean[0] + np.concatenate(
        [[0], np.cumsum(np.diff(TAU) * 0.5 * (1 / mean[1:] + 1 / mean[:-1]))]
    )
    inside = gravity - np.minimum(SIGMA * teff**4 / C * mean, 0.8 * gravity)
    p = mass[0] * inside[0] + np.concatenate(
        [[0], np.cumsum(np.diff(mass) * 0.5 * (inside[1:] + inside[:-1]))]
    )
    true, scattering, _ = opacity(wavelength, t, p, helium)
    rise = planck(wavelength, t * 1.01) - planck(wavelength, t)
    found = np.sum(rise * weight, 1) / np.sum(rise / (true + scattering) * weight, 1)
    return mass, p, np.sqrt(mean * found)


def corrected(teff, t, medium, source, moments, weight, caution) -> np.ndarray:
    """Return the temperature after one step towards radiative equilibrium (Mihalas 1978, 7-2)."""
    (mass, true, total), (j, h) = medium, moments
    kj, kb = np.sum(true * j * weight, 1), np.sum(true * source * weight, 1)
    jj, bb = np.sum(j * weight, 1), np.sum(source * weight, 1)
    hh = np.sum(h * weight, 1)
    kh = np.sum(total * h * weight, 1) / hh
    missing = SIGMA * teff**4 / (4 * np.pi) - hh
    run = np.concatenate(
        [[0], np.cumsum(np.diff(mass) * 0.5 * (kh[1:] * missing[1:] + kh[:-1] * missing[:-1]))]
    )
    step = (kj - kb) + (kj / jj) * (3 * run + np.sqrt(3) * missing[0])
    change = step / (kb / bb) / (4 * SIGMA * t**3 / np.pi)
    limit = 0.08 * caution * t
    change = np.clip(change, -limit, limit)
    smooth = np.convolve(np.pad(change, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return np.clip(t + 0.6 * smooth, 0.3 * teff, None)


def atmospheres() -> dict[str, np.ndarray]:
    """Return the table: components of ln(F / black body) for white dwarfs and hot stars."""
    from mock_tables_stars import packed

    from omnisky.mock.sed.stars import blackbody

    table = {"wavelength": WAVELENGTH.astype(np.float32)}
    for name, teffs, loggs, helium in (
        ("dwarf", DWARF_TEFF, DWARF_LOGG, 0.0),
        ("star", STAR_TEFF, STAR_LOGG, 0.1),
    ):
        light = np.array([[atmosphere(teff, logg, helium) for logg in loggs] for teff in teffs])
        black = blackbody(WAVELENGTH, teffs)[:, None]
        ratio = np.log(np.maximum(light / black, 1e-6)).reshape(-1, len(WAVELENGTH))
        mean = ratio.mean(0)
        u, s, vt = np.linalg.svd(ratio - mean, full_matrices=False)
        k = N_COMPONENTS
        off = np.std((u[:, :k] * s[:k]) @ vt[:k] + mean - ratio)
        print(f"  {name}: {k} components leave {off:.3%}")
        table[f"{name}_log_t"], table[f"{name}_logg"] = np.log10(teffs), loggs
        coefficients = (u[:, :k] * s[:k]).reshape(len(teffs), len(loggs), k)
        table[f"{name}_coefficients"] = coefficients.astype(np.float32)
        basis, scale = packed(np.concatenate([mean[None], vt[:k]]))
        table[f"{name}_basis"], table[f"{name}_basis_scale"] = basis, scale
    return table
