"""Stellar spectra: a library emulator, colours beyond it, and hot and dense atmospheres."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock import tables
from omnisky.mock.sed.grids import GRIDS, Grid, rebin

__all__ = ["SOLAR_LUMINOSITY", "StellarLibrary", "blackbody", "library"]

SOLAR_LUMINOSITY = 3.828e33  # erg/s, IAU 2015 B3
SOLAR_MAGNITUDE = 4.74  # bolometric, IAU 2015 B2
# Flux densities of Vega at the effective wavelengths of V, J, H and K (Bessell, Castelli & Plez
# 1998, table A2) and of W1 and W2 (Jarrett et al. 2011), erg s-1 cm-2 A-1.
_VEGA = {
    "v": 3.631e-9,
    "j": 3.147e-10,
    "h": 1.138e-10,
    "k": 3.961e-11,
    "w1": 8.180e-12,
    "w2": 2.415e-12,
}
_NEAR_INFRARED = np.array([12200.0, 16300.0, 21900.0])
_WISE = np.array([33500.0, 46000.0])
# K - W1 and W1 - W2 (Vega) of dwarfs (Pecaut & Mamajek 2013, table 5, in round numbers). Carbon
# monoxide takes 0.06 mag from cool giants in W2.
_WISE_TEFF = np.array([2700.0, 3050.0, 3250.0, 3400.0, 3550.0, 3850.0, 4400.0, 5300.0, 6500.0, 1e4])
_K_W1 = np.array([0.30, 0.22, 0.19, 0.16, 0.14, 0.10, 0.08, 0.06, 0.05, 0.02])
_W1_W2 = np.array([0.24, 0.19, 0.17, 0.14, 0.10, 0.02, -0.05, -0.04, -0.03, 0.01])
_TEN_PARSEC = 4 * np.pi * (10 * 3.0857e18) ** 2
# Above the first temperature our own atmospheres blend in, above the second they stand alone.
_WARM, _HOT = 9500.0, 11500.0
_DENSE = 6.5  # log g above which a star is a white dwarf


class StellarLibrary:
    """Give the spectra of stars per unit bolometric luminosity on a grid.

    The optical part (3542-7408 A) is an emulator of the observed MILES spectra (Sanchez-Blazquez
    et al. 2006), the blue and red parts one of the BOSZ model atmospheres (Meszaros et al. 2024)
    scaled to meet it; fluxes at J, H and K follow from the colours of Worthey & Lee (2011), and
    beyond K a black body of their temperature. The bolometric correction in V (ibid.) sets the
    scale. Hot stars and white dwarfs come from `dev/mock_tables_atmospheres.py`.

    Parameters
    ----------
    grid : Grid
        Where spectra are wanted.
    """

    def __init__(self, grid: Grid) -> None:
        table = tables.load("stars")
        self.grid = grid
        self._table = table
        wave = grid.wavelength
        miles, bosz = table["wavelength_miles"], table["wavelength_bosz"]
        self._cuts = [int(np.searchsorted(wave, x)) for x in (2004.0, 3546.0, 7404.0, 11440.0)]
        self._miles = rebin(miles, table["miles_basis"], grid.edges).astype(np.float32)
        self._bosz = rebin(bosz, table["bosz_basis"], grid.edges).astype(np.float32)
        self._of_miles, self._of_bosz = _window_means(table)
        # The red models meet the library without a step, and farther on at the mean of two joints:
        # in M dwarfs the bands of TiO, stronger in the models, make these differ.
        self._ramp = 0.5 * np.clip((wave - 7405.0) / 800.0, 0, 1)
        self._hot = {kind: _Atmospheres(kind, grid) for kind in ("star", "dwarf")}
        self._layers, self._scalers = _networks(table)
        self._cube = np.stack([table[f"colour_{k}"] for k in ("bcv", "vk", "jk", "hk")], axis=-1)
        self._cube = self._cube.astype(np.float64)

    def spectra(self, teff, logg, feh, part: slice = slice(None)) -> np.ndarray:
        """Return L_lambda / L_bol of stars.

        Parameters
        ----------
        teff, logg, feh : array, shape (star,)
            Effective temperature in K, log surface gravity in cm s-2, [Fe/H].
        part : slice
            Pixels of the grid that are wanted.

        Returns
        -------
        array of float64, shape (star, pixel)
            1 / Angstrom.
        """
        teff, logg, feh = (np.asarray(x, dtype=np.float64) for x in (teff, logg, feh))
        low, high, _ = part.indices(len(self.grid))
        found = np.zeros((len(teff), high - low))
        dense = logg > _DENSE
        hot = np.where(dense, 1.0, np.clip((teff - _WARM) / (_HOT - _WARM), 0.0, 1.0))
        some = np.flatnonzero(hot < 1)
        if len(some):
            found[some] = self._cool(teff[some], logg[some], feh[some], low, high)
            found[some] *= 1 - hot[some, None]
        for kind, chosen in (("star", (hot > 0) & ~dense), ("dwarf", dense)):
            some = np.flatnonzero(chosen)
            if len(some):
                light = self._hot[kind].spectra(teff[some], logg[some], low, high)
                found[some] += hot[some, None] * light
        return found

    def _cool(self, teff, logg, feh, low: int, high: int) -> np.ndarray:
        """Return spectra of stars of the library."""
        teff = np.maximum(teff, 2500.0)
        logg, feh = np.clip(logg, -0.5, 5.5), np.clip(feh, -2.5, 0.45)
        log_t = np.log10(teff)
        miles, bosz = rows = self._coefficients(logg, log_t, feh)
        colours = self._colours(logg, log_t, feh)
        of_miles = _positive(miles @ self._of_miles)[:, 0]
        of_bosz = _positive(bosz @ self._of_bosz)[:, 0]
        blue, red, broad = (of_miles[:, k, None] / of_bosz[:, k, None] for k in range(3))
        # In the blue of the coolest both are next to nothing, and their ratio means little.
        blue = np.minimum(np.maximum(blue, 0.3 * red), 3.0 * red)
        v = of_miles[:, 4]
        miles, bosz = rows.astype(np.float32)
        a, b, c, d = (min(max(cut, low), high) for cut in self._cuts)
        flux = np.empty((len(teff), high - low))
        wave = self.grid.wavelength[low:high]
        if a > low:
            # Below the models a black body continues them, scaled to meet.
            left = of_bosz[:, 4, None] * blue
            black = blackbody(np.append(wave[: a - low], 2050.0), teff)
            flux[:, : a - low] = left * black[:, :-1] / black[:, -1:]
        for start, stop, rows, basis, scale in (
            (a, b, bosz, self._bosz, blue),
            (b, c, miles, self._miles, 1.0),
            (c, d, bosz, self._bosz, red * (broad / red) ** self._ramp[c:d]),
        ):
            if stop > start:
                piece = _positive((rows @ basis[:, start:stop])[:, 0])
                flux[:, start - low : stop - low] = piece * scale
        if high > d:
            edge = of_bosz[:, 3] * np.sqrt(red * broad)[:, 0] / v
            cold = np.where((logg < 3.0) & (teff < 4600.0), 0.06, 0.0)
            infrared = _infrared(wave[d - low :], teff, (colours, cold), edge)
            flux[:, d - low :] = v[:, None] * infrared
        self._mend(flux, wave, (teff, logg), of_miles[:, 3])
        v_magnitude = SOLAR_MAGNITUDE - colours[:, 0]
        scale = _VEGA["v"] * 10 ** (-0.4 * v_magnitude) * _TEN_PARSEC / SOLAR_LUMINOSITY
        return flux * (scale / v)[:, None]

    def _mend(self, flux, wave, star, blue) -> None:
        """Mend what the emulator gets wrong below 5600 A in cool dwarfs, in place.

        MILES has few M dwarfs: a tilt puts g - r on the observed locus (built into the table, see
        dev/mock_tables_stars.py), and chromospheres and fluorescence keep u - g below some 2.7
        (Covey et al. 2007, table 3).
        """
        teff, logg = star
        cool = np.flatnonzero((teff < 4500.0) & (logg > 3.5))
        last = int(np.searchsorted(wave, 5600.0))
        if not len(cool) or not last:
            return
        share = np.clip(logg[cool] - 3.5, 0, 1)
        tilt = np.interp(teff[cool], self._table["tilt_teff"], self._table["tilt"]) * share
        part = flux[cool, :last] * np.exp(tilt[:, None] * np.log(wave[:last] / 5600.0))
        share *= np.clip((4500.0 - teff[cool]) / 500.0, 0, 1)
        floor = (0.11 * share * blue[cool])[:, None] * np.minimum(wave[:last] / 3600.0, 1.0) ** 4
        flux[cool, :last] = np.where(wave[:last] < 4200.0, np.hypot(part, floor), part)

    def _coefficients(self, logg, log_t, feh) -> np.ndarray:
        """Return 1 and the amplitudes of the bases of MILES and BOSZ, shape (2, star, 1, 17)."""
        x = np.stack([logg, log_t, feh], axis=-1)[:, None, :]
        # Both networks at once, and one star a product: the last bit must not depend on the batch.
        x = (x - self._scalers[0]) / self._scalers[1]
        for layer, (kernel, bias) in enumerate(self._layers):
            x = x @ kernel + bias
            if layer < 4:
                x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * (x * x * x))))
        x = x * self._scalers[3] + self._scalers[2]
        return np.concatenate([np.ones((*x.shape[:-1], 1)), x], axis=-1)

    def _colours(self, logg, log_t, feh) -> np.ndarray:
        """Return BC_V, V-K, J-K, H-K, shape (star, 4)."""
        knots = tuple(self._table[f"colour_{axis}"] for axis in ("logg", "log_t", "feh"))
        return trilinear(knots, self._cube, (logg, log_t, feh))


def _window_means(table) -> tuple[np.ndarray, np.ndarray]:
    """Return what the mean flux in windows is made of: products with the amplitudes.

    Of MILES and BOSZ each the blue joint, the red joint, narrow and broad; then of MILES the blue
    and V, and of BOSZ its red and its blue end.
    """
    joints = ((3546.0, 3700.0), (7330.0, 7405.0), (7100.0, 7405.0))

    def means(which, spans) -> list[np.ndarray]:
        basis, wavelength = table[f"{which}_basis"], table[f"wavelength_{which}"]
        return [rebin(wavelength, basis, np.array(span))[:, 0] for span in spans]

    miles = means("miles", (*joints, (4000.0, 5400.0)))
    miles.append(_mean_in_v(table["wavelength_miles"], table["miles_basis"]))
    bosz = means("bosz", (*joints, (11100.0, 11400.0), (2004.0, 2100.0)))
    return np.stack(miles, axis=1), np.stack(bosz, axis=1)


def _networks(table) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
    """Return layers and scalers of the emulators of MILES and BOSZ, stacked."""

    def stacked(part: str) -> np.ndarray:
        return np.stack([table[f"{which}_{part}"] for which in ("miles", "bosz")]).astype(float)

    layers = [
        (stacked(f"kernel_{i}")[:, None], stacked(f"bias_{i}")[:, None, None]) for i in range(5)
    ]
    parts = ("x_mean", "x_scale_", "y_mean", "y_scale_")
    return layers, [stacked(part)[:, None, None] for part in parts]


class _Atmospheres:
    """Our own atmospheres of one kind, on a grid."""

    def __init__(self, kind: str, grid: Grid) -> None:
        t = tables.load("atmospheres")
        self._log_t, self._logg = t[f"{kind}_log_t"], t[f"{kind}_logg"]
        self._coefficients = t[f"{kind}_coefficients"].astype(np.float64)
        self._basis = rebin(t["wavelength"], t[f"{kind}_basis"], grid.edges).astype(np.float32)
        self._wavelength = grid.wavelength

    def spectra(self, teff, logg, low: int, high: int) -> np.ndarray:
        """Return L_lambda / L_bol, 1 / Angstrom, shape (star, pixel)."""
        t, p = place(np.log10(teff), self._log_t)
        g, q = place(logg, self._logg)
        p, q = p[:, None], q[:, None]
        table = self._coefficients
        rows = (table[t, g] * (1 - p) + table[t + 1, g] * p) * (1 - q)
        rows = rows + (table[t, g + 1] * (1 - p) + table[t + 1, g + 1] * p) * q
        rows = np.concatenate([np.ones((len(teff), 1)), rows], axis=1)
        rows = rows.astype(np.float32)
        shape = (rows[:, None, :] @ self._basis[:, low:high])[:, 0]
        return blackbody(self._wavelength[low:high], teff) * np.exp(shape)


def place(x, knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the knot below each number and how far it is to the next, 0 to 1, held at the ends."""
    position = np.interp(x, knots, np.arange(len(knots)))
    low = np.minimum(position.astype(int), len(knots) - 2)
    return low, position - low


def trilinear(knots, cube: np.ndarray, at) -> np.ndarray:
    """Interpolate a table of shape (i, j, k, value) linearly at three coordinates, held at ends."""
    (i, p), (j, q), (k, r) = (place(x, axis) for x, axis in zip(at, knots, strict=True))
    step = np.arange(2)
    corners = cube[
        i[..., None, None, None] + step[:, None, None],
        j[..., None, None, None] + step[:, None],
        k[..., None, None, None] + step,
    ]
    p, q, r = p[..., None, None, None], q[..., None, None], r[..., None]
    corners = corners[..., 0, :, :, :] * (1 - p) + corners[..., 1, :, :, :] * p
    corners = corners[..., 0, :, :] * (1 - q) + corners[..., 1, :, :] * q
    return corners[..., 0, :] * (1 - r) + corners[..., 1, :] * r


def _infrared(wave, teff, colours, edge) -> np.ndarray:
    """Return f_lambda / f_V beyond the library, through J, H, K, W1 and W2, (star, pixel)."""
    colours, cold = colours
    v_k, j_k, h_k = colours[:, 1], colours[:, 2], colours[:, 3]
    k_w1, w1_w2 = np.interp(teff, _WISE_TEFF, _K_W1), np.interp(teff, _WISE_TEFF, _W1_W2) - cold
    ratio = [
        _VEGA[band] / _VEGA["v"] * 10 ** (0.4 * (v_k - minus))
        for band, minus in (
            ("j", j_k),
            ("h", h_k),
            ("k", 0.0),
            ("w1", -k_w1),
            ("w2", -k_w1 - w1_w2),
        )
    ]
    knots = np.log(np.concatenate([[11250.0], _NEAR_INFRARED, _WISE]))
    black = blackbody(np.concatenate([np.exp(knots), wave]), teff)
    residual = np.log(np.stack([edge, *ratio], axis=1) / black[:, :6])
    low, part = place(np.log(wave), knots)
    line = residual[:, low] * (1 - part) + residual[:, low + 1] * part
    return black[:, 6:] * np.exp(line)


def _mean_in_v(wavelength, basis) -> np.ndarray:
    """Return the mean of each row of a basis through V, a curve like that of Bessell (1990)."""
    knots = [4700.0, 5000.0, 5300.0, 5600.0, 6000.0, 6400.0, 7000.0]
    response = np.interp(wavelength, knots, [0.0, 0.78, 1.0, 0.80, 0.37, 0.10, 0.0])
    weight = response * wavelength * np.gradient(wavelength.astype(float))
    return np.sum(basis * weight, axis=1) / weight.sum()


def _positive(flux: np.ndarray) -> np.ndarray:
    """Return a smooth floor at zero: the linear basis goes below it in the blue of cool stars."""
    return 0.5 * (flux + np.sqrt(flux * flux + np.float32(1e-5)))


def blackbody(wavelength: np.ndarray, teff: np.ndarray) -> np.ndarray:
    """Return B_lambda / (sigma T^4 / pi), 1 / Angstrom, shape (star, pixel)."""
    cm = wavelength * 1e-8
    x = np.minimum(1.438776877 / (cm * teff[:, None]), 600.0)
    planck = 1.191042972e-5 / cm**5 / np.expm1(x)
    return planck * np.pi / (5.670374419e-5 * teff[:, None] ** 4) * 1e-8


@cache
def library(which: str) -> StellarLibrary:
    """Return the library on one of the `GRIDS`."""
    return StellarLibrary(GRIDS[which])
