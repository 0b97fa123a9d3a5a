"""Spectra of quasars, and the absorption in front of them."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock import seeds, tables
from omnisky.mock.sed.grids import C_KM_S, FINE, GRIDS, Grid, smoothed
from omnisky.mock.sed.stars import blackbody

__all__ = ["N_TEMPLATES", "forest", "mean_transmission", "rest_spectra"]

# Real coefficient vectors to draw from; see dev/mock_tables_quasars.py.
N_TEMPLATES = 3434
_I_BAND = 7480.0
_LY_ALPHA, _LY_BETA, _LIMIT = 1215.67, 1025.72, 911.75


class _Quasars:
    """Principal components of ln f_lambda on a grid, and what continues them."""

    def __init__(self, grid: Grid) -> None:
        t = tables.load("quasars")
        self.wavelength = w = grid.wavelength
        self.blue = t["blue_coefficients"].astype(np.float64)
        self.red = t["red_coefficients"].astype(np.float64)
        self.partner = t["partner"].astype(int)
        x = np.log(w)

        def basis(name: str) -> np.ndarray:
            knots = np.log(t[f"{name}_wavelength"].astype(np.float64))
            at = np.clip(x, knots[0], knots[-1])
            return np.stack([np.interp(at, knots, row) for row in t[f"{name}_basis"]])

        # From blue to red over 2300-3000 A, after levelling there.
        share = np.clip((x - np.log(2300)) / np.log(3000 / 2300), 0, 1)
        blue, red = basis("blue"), basis("red")
        overlap = (w > 2300) & (w < 3000)
        step_red, step_blue = red[:, overlap].mean(axis=1), blue[:, overlap].mean(axis=1)
        # Rows: red components, blue components; levels are linear in the coefficients.
        self.rows = np.concatenate(
            [
                red * share + step_red[:, None] * (1 - share),
                (blue - step_blue[:, None]) * (1 - share),
            ]
        )
        near = [(w > a) & (w < b) for a, b in ((1275.0, 1290.0), (5060.0, 5095.0))]
        self.anchors = [self.rows[:, n].mean(axis=1) for n in near]
        self.ends = int(np.searchsorted(w, 1212.0)), int(np.searchsorted(w, 5040.0))
        self.beyond = _beyond(w[self.ends[1] :])
        self.join = np.clip((w[self.ends[1] :] - 5040.0) / 45.0, 0, 1)

    def coefficients(self, template: np.ndarray) -> np.ndarray:
        """Return rows of coefficients, (object, component)."""
        template = np.clip(template, 0, N_TEMPLATES - 1)
        return np.concatenate([self.red[template], self.blue[self.partner[template]]], axis=1)


def _beyond(w: np.ndarray) -> np.ndarray:
    """Return parts of f_lambda beyond 5040 A over the level at 5080 A: disk, hot and warm dust.

    The composite continuum and Halpha of Glikman, Helfand & White (2006); hot dust at 1250 K
    (ibid.) and cooler dust for 10 to 30 micron (Richards et al. 2006).
    """
    slope = np.where(w < 1e4, (w / 5080.0) ** -1.4, (1e4 / 5080.0) ** -1.4 * (w / 1e4) ** -2.0)
    line = sum(
        height * np.exp(-0.5 * ((w - centre) / width) ** 2)
        for centre, width, height in (
            (6564.6, 30.0, 1.0),
            (6564.6, 85.0, 0.55),
            (5877.0, 55.0, 0.10),
            (10833.0, 90.0, 0.30),
            (10941.0, 90.0, 0.12),
        )
    )
    hot = blackbody(np.append(w, 25000.0), np.array([1250.0]))[0]
    warm = blackbody(np.append(w, 150000.0), np.array([250.0]))[0]
    at_k = (1e4 / 5080.0) ** -1.4 * 2.5**-2.0
    return np.stack(
        [slope * (1 + line), 1.5 * at_k * hot[:-1] / hot[-1], 0.09 * at_k * warm[:-1] / warm[-1]]
    )


def _below(flux: np.ndarray, w: np.ndarray, end: int) -> np.ndarray:
    """Return the light below Lyman alpha, over its level at 1282 A, before the forest.

    f_nu falls as nu^-1.7 (Lusso et al. 2015); Lyman alpha is mirrored from its red side, O VI and
    Lyman beta are those of the composite of Vanden Berk et al. (2001).
    """
    x = w[:end]
    light = np.broadcast_to((x / 1282.0) ** -0.3, (len(flux), end)).copy()
    light += 0.20 * np.exp(-0.5 * ((x / 1034.0 - 1) / 0.010) ** 2)
    step = np.log(w[1] / w[0])
    mirrored = np.rint(np.log(_LY_ALPHA**2 / w[0] / x) / step).astype(int)
    inside = mirrored < len(w)
    excess = np.maximum(flux[:, np.minimum(mirrored, len(w) - 1)] - 1.0, 0.0) * inside
    return light + excess * np.exp(-0.5 * ((x / _LY_ALPHA - 1) / 0.011) ** 2)


@cache
def _quasars(which: str) -> _Quasars:
    return _Quasars(GRIDS[which])


def rest_spectra(truth, which: str, part: slice = slice(None)) -> np.ndarray:
    """Return f_lambda of quasars at 10 pc, without absorption by other galaxies.

    1200-5100 A are real quasars: principal components of Davies et al. (2018) with coefficients of
    real objects. Below, f_nu falls as nu^-1.7 (Lusso et al. 2015). One in eight has broad
    absorption lines (Gibson et al. 2009).

    Parameters
    ----------
    truth : Truth
        Quasars.
    which : str
        Name of one of the `GRIDS`.
    part : slice
        Pixels of the grid that are wanted.

    Returns
    -------
    array of float64, shape (object, pixel)
        1e-17 erg s-1 cm-2 A-1.
    """
    q = _quasars(which)
    low, high, _ = part.indices(len(q.wavelength))
    w = q.wavelength[low:high]
    rows = q.coefficients(truth["template"])[:, None, :]
    tilt = np.where(np.isnan(truth["slope_offset"]), 0.0, truth["slope_offset"])[:, None]
    log_f = (rows @ q.rows[:, low:high])[:, 0] + tilt * np.log(w / 3000.0)
    at_blue, at_red = ((rows @ anchor)[:, 0][:, None] for anchor in q.anchors)
    at_blue = at_blue + tilt * np.log(1282.0 / 3000.0)
    at_red = at_red + tilt * np.log(5080.0 / 3000.0)
    blue, red = (min(max(end, low), high) - low for end in q.ends)
    flux = np.exp(log_f)
    if blue:
        flux[:, :blue] = np.exp(at_blue) * _below(flux / np.exp(at_blue), w, blue)
    if red < high - low:
        start = low + red - q.ends[1]
        join, beyond = (x[..., start : start + high - low - red] for x in (q.join, q.beyond))
        # Dust covers more of some than of others: 0.13 dex (Roseboom et al. 2013, figure 6).
        hot, warm = 10.0 ** (0.13 * seeds.normals(0, _keys(truth), "quasar dust", 2).T)[:, :, None]
        light = beyond[0] + hot * beyond[1] + warm * hot * beyond[2]
        flux[:, red:] = flux[:, red:] * (1 - join) + np.exp(at_red) * light * join
    _cut_troughs(flux, w, _keys(truth))
    # AB: f_nu = 10^(-0.4 (M + 48.6)) at the i band.
    wanted = 10 ** (-0.4 * (truth["m_i"] + 48.6)) * 2.99792458e18 / _I_BAND**2 / 1e-17
    at_i = np.exp(at_red[:, 0]) * (_I_BAND / 5080.0) ** -1.4
    return flux * (wanted / at_i)[:, None]


def _keys(truth) -> np.ndarray:
    """Return a number an object, of its own truth, to draw what truth has no column for."""
    bits = np.ascontiguousarray(truth["redshift"]).view(np.uint64) >> np.uint64(12)
    return bits.astype(np.int64) ^ truth["object_id"]


def _cut_troughs(flux: np.ndarray, wavelength: np.ndarray, keys: np.ndarray) -> None:
    """Cut broad absorption lines into some quasars, in place."""
    draws = seeds.uniforms(0, keys, "broad absorption", 4)
    for i in np.flatnonzero(draws[:, 0] < 0.12):
        u = draws[i, 1:]
        speed = 3000.0 + 14000.0 * u[0] ** 1.5
        width, depth = 900.0 + 2600.0 * u[1], 0.4 + 0.55 * u[2]
        for line, share in ((1549.06, 1.0), (1398.0, 0.5), (1240.14, 0.9), (1215.67, 0.4)):
            centre = line * (1 - speed / C_KM_S)
            x = (wavelength / centre - 1) * C_KM_S / width
            flux[i] *= 1 - share * depth * np.exp(-0.5 * x**4)


def mean_transmission(observed_angstrom: np.ndarray, redshift: np.ndarray) -> np.ndarray:
    """Return the mean transmission of the intergalactic medium, shape (object, pixel).

    Lyman alpha: tau = 0.0018 (1 + z)^3.92 (Faucher-Giguere et al. 2008); Lyman beta: that of the
    same gas, see `forest`; below the limit the mean free path of Worseck et al. (2014).
    """
    w = observed_angstrom
    one = 1 + redshift[:, None]
    alpha, _, beta = _lognormal()
    in_beta = np.exp(np.interp(np.log(_forest_mean(w / _LY_BETA)), alpha, beta))
    total = np.where(w / _LY_ALPHA < one, _forest_mean(w / _LY_ALPHA), 0.0)
    total = total + np.where(w / _LY_BETA < one, in_beta, 0.0)
    return np.exp(-total - _continuum_depth(w, one))


def _forest_mean(one: np.ndarray) -> np.ndarray:
    """Return the effective depth in Lyman alpha at 1 + z."""
    return 0.0018 * one**3.92


def _continuum_depth(w: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return the optical depth below the Lyman limit of gas between the quasar and us.

    The integral of Prochaska, Worseck & O'Meara (2009) over proper distance in a universe of
    matter, c / H0 / sqrt(Om) x^2.75 integral (1 + z)^-5.25 / path dz, from the redshift at which a
    photon ceases to ionise, x = 1 + z, to the quasar's, with a mean free path of
    37 ((1 + z) / 5)^-5.4 proper Mpc (Worseck et al. 2014).
    """
    from omnisky.mock.population.cosmology import H0, OMEGA_M

    x = np.minimum(w / _LIMIT, one)
    scale = C_KM_S / H0 / np.sqrt(OMEGA_M) / (37.0 * 5.0**5.4)
    return scale * x**2.75 * (one**1.15 - x**1.15) / 1.15


_SPREAD = 1.8  # of ln depth of the forest at 60 km/s
_BETA = 0.16  # depth in Lyman beta over Lyman alpha: ratio of strengths and wavelengths


@cache
def _lognormal() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ln of effective depths in Lyman alpha, ln A, ln of depths in Lyman beta.

    Depths are such that the mean of exp(-A exp(s g)) over normal g is exp(-depth).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()
    log_a = np.linspace(-9, 6, 200)
    field = np.exp(log_a[:, None] + _SPREAD * nodes)
    alpha, beta = (-np.log(np.sum(np.exp(-k * field) * weights, axis=1)) for k in (1.0, _BETA))
    return np.log(alpha), log_a, np.log(beta)


def forest(truth, part: slice) -> np.ndarray | float:
    """Return the transmission of intergalactic gas in front of one quasar, line by line.

    A lognormal field of optical depth (Bi & Davidsen 1997) with the mean of `mean_transmission`;
    in one of five a damped absorber; and some metal lines of galaxies on the way, as many as
    Zhu & Menard (2013) and Cooksey et al. (2013) count.

    Parameters
    ----------
    truth : Truth
        One quasar.
    part : slice
        Pixels of the fine grid, in the quasar's frame.

    Returns
    -------
    array of float64, shape (pixel,), or 1.0 where no forest is seen
    """
    w = FINE.wavelength[part]
    one = 1 + float(truth["redshift"][0])
    rng = seeds.stream(0, int(_keys(truth)[0]), "forest")
    passed = _metals(w, one, rng)
    if w[0] >= _LY_ALPHA:
        return passed
    end = int(FINE.position(_LY_ALPHA)) + 1
    depth = _forest_depth(one, end, rng)
    passed[: max(end - part.start, 0)] *= np.exp(-depth[part.start : end][: len(w)])
    return passed


def _forest_depth(one: float, end: int, rng: np.random.Generator) -> np.ndarray:
    """Return the optical depth of hydrogen on the first pixels of the fine grid."""
    # Clumps of 70 km/s on structures of 700 km/s, unit variance together.
    field = np.zeros(end)
    for sigma, share in ((1.2, 0.7), (12.0, 0.3)):
        noise = smoothed(rng.standard_normal(end), sigma)
        field += noise * np.sqrt(share * 2 * np.sqrt(np.pi) * sigma)
    wave = FINE.wavelength[:end]
    depths, log_a, _ = _lognormal()
    mean = _forest_mean(wave * one / _LY_ALPHA)
    depth = np.exp(np.interp(np.log(mean), depths, log_a) + _SPREAD * field)
    u = rng.random(3)
    if u[0] < 0.2:
        absorber = _LY_ALPHA * (0.80 + 0.19 * u[1])
        column = 10 ** (0.3 + 1.0 * u[2])  # 1e20 cm-2
        depth = depth + 4.24 * column / ((wave / absorber - 1) * _LY_ALPHA) ** 2
    beta = round(np.log(_LY_ALPHA / _LY_BETA) / FINE.step)
    depth[: end - beta] += _BETA * depth[beta:].copy()
    return depth + _continuum_depth(wave * one, np.array(one))


# Groups of lines of intervening galaxies: vacuum wavelengths, strengths over the first.
_METALS = (
    ((1548.20, 1.0), (1550.78, 0.65)),
    ((2796.35, 1.0), (2803.53, 0.75), (2600.17, 0.45), (2382.77, 0.4), (2586.65, 0.3)),
)


def _metals(w: np.ndarray, one: float, rng: np.random.Generator) -> np.ndarray:
    """Return the transmission of intervening metal lines at rest wavelengths of the quasar."""
    passed = np.ones(len(w))
    for lines, rate in zip(_METALS, (1.2, 0.5), strict=True):
        n = min(int(rng.poisson(rate * min(one - 1, 2.5))), 8)
        for u, strength, jitter in rng.random((n, 3)):
            # Absorbers lie at 0.55 to 1 of the quasar's 1 + z: beyond, the forest hides them.
            absorber = 0.55 + 0.449 * u
            width = -0.6 * np.log(1 - 0.95 * strength)  # A at rest
            sigma = (40.0 + 60.0 * jitter) / C_KM_S
            for line, share in lines:
                centre = line * absorber
                low, high = np.searchsorted(w, [centre * (1 - 6 * sigma), centre * (1 + 6 * sigma)])
                x = (w[low:high] / centre - 1) / sigma
                tau = width * share / (line * sigma * np.sqrt(2 * np.pi))
                passed[low:high] *= np.exp(-tau * np.exp(-0.5 * x**2))
    return passed
