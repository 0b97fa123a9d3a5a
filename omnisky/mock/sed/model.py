"""One spectral energy distribution an object, seen through bands or as a spectrum."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock.sed import galaxies, isochrones, quasars
from omnisky.mock.sed.bands import BANDS, CANVAS, OFFSET, band_matrix
from omnisky.mock.sed.dust import milky_way_curve
from omnisky.mock.sed.grids import (
    C_KM_S,
    COARSE,
    FINE,
    FWHM,
    GRIDS,
    MEDIUM,
    Grid,
    lines_on,
    smoothed,
)
from omnisky.mock.sed.nebular import WAVELENGTHS
from omnisky.mock.sed.quick import typical
from omnisky.mock.sed.stars import SOLAR_LUMINOSITY, library
from omnisky.mock.truth import GALAXY, QUASAR, STAR, Truth

__all__ = ["COMPONENTS", "SedModel"]

COMPONENTS = ("bulge", "disk", "young")
_MPC, _PC = 3.0857e24, 3.0857e18  # cm
_CHUNK = 32
_BEFORE = 64  # pixels: 3800 km/s of the fine grid
# Full width at half maximum (A at rest) of the library: MILES, and the models' sampling elsewhere.
_LIBRARY_FWHM = 2.5


class SedModel:
    """Turn truth into fluxes and spectra.

    Every object has one spectrum; nothing here is random but the absorption in front of quasars,
    which is a function of the object's own truth. Use `SedModel.load`.

    Examples
    --------
    >>> from omnisky.mock.sed import BANDS, SedModel
    >>> from omnisky.mock.truth import Truth
    >>> sun = Truth({"object_id": [0], "kind": [1], "teff": [5772.0], "logg": [4.44], "feh": [0.0],
    ...              "log_luminosity": [0.0], "distance": [10.0], "a_v_star": [0.0]})
    >>> nanomaggies = SedModel.load().fluxes(sun, components=False)[0]
    >>> r = 22.5 - 2.5 * np.log10(nanomaggies[BANDS.index("sdss_r")])
    >>> round(float(r))
    5
    """

    isochrones = isochrones
    n_quasar_templates = quasars.N_TEMPLATES

    def __init__(self) -> None:
        self._matrix = np.ascontiguousarray(band_matrix())
        self._extinction = -0.4 * np.log(10) * milky_way_curve(CANVAS.wavelength)
        # The grids of spectra in the observer's frame, from some pixels before their beginning for
        # what comes towards us: what Galactic dust does to each pixel.
        self._observed = {
            which: (
                -0.4
                * np.log(10)
                * milky_way_curve(
                    Grid(
                        start=g.start * np.exp(-_BEFORE * g.step), stop=80000.0, step=g.step
                    ).wavelength
                )
            ).astype(np.float32)
            for which, g in (("medium", MEDIUM), ("fine", FINE))
        }

    @classmethod
    def load(cls) -> SedModel:
        """Return the model; one instance a process."""
        return _model()

    def fluxes(self, truth: Truth, components: bool = True) -> np.ndarray:
        """Return observed fluxes through all bands.

        Parameters
        ----------
        truth : Truth
            Objects.
        components : bool
            Keep the parts of galaxies apart.

        Returns
        -------
        array of float64, shape (object, 3, band) or (object, band)
            AB nanomaggies, Galactic extinction applied, in the order of `COMPONENTS` and `BANDS`.
            Stars and quasars are all in the first component.
        """
        result = np.zeros((len(truth), 3, len(BANDS)))
        kind = truth["kind"]
        for which, see in ((GALAXY, _galaxies), (STAR, _stars), (QUASAR, _quasars)):
            rows = np.flatnonzero(kind == which)
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK]
                some = truth[part]
                seen = see(some)
                seen *= np.exp(_e_b_v(some)[:, None] * self._extinction)[:, None]
                result[part, : seen.shape[1]] = seen @ self._matrix
        return result if components else result.sum(axis=1)

    def spectrum(
        self, truth: Truth, wavelength_angstrom, *, share=(1.0, 1.0, 1.0), resolution_fwhm=None
    ) -> np.ndarray:
        """Return the observed spectrum of one object.

        Parameters
        ----------
        truth : Truth
            One object.
        wavelength_angstrom : array, shape (pixel,)
            Vacuum wavelengths in the observer's frame, increasing. Pixels are taken to reach half
            way to their neighbours; light is averaged over them where they are coarser than 60
            km/s.
        share : (float, float, float) or (float, float, float, float)
            How much of each component is seen; a fourth number is that of the light of an active
            nucleus, which is seen like the bulge otherwise.
        resolution_fwhm : float or array, shape (pixel,), optional
            Resolution of the instrument in Angstrom. The library itself has 2.5 A at rest.

        Returns
        -------
        array of float64, shape (pixel,)
            f_lambda, 1e-17 erg s-1 cm-2 A-1, Galactic extinction applied; zero beyond 1.15 micron
            at rest.

        Raises
        ------
        ValueError
            If `truth` is not one object, or wavelengths are fewer than two or do not increase.
        """
        if len(truth) != 1:
            raise ValueError(f"spectrum takes one object, as truth[3:4]; found {len(truth)}")
        wave = np.asarray(wavelength_angstrom, dtype=np.float64)
        if wave.ndim != 1 or len(wave) < 2:
            raise ValueError(f"wavelengths must be one row of two or more; found {wave.shape}")
        if not np.all(wave[1:] > wave[:-1]):
            raise ValueError("wavelengths must increase, without NaN; found some that do not")
        fwhm = 0.0 if resolution_fwhm is None else np.asarray(resolution_fwhm, dtype=np.float64)
        redshift = float(truth["redshift"][0])
        redshift = redshift if np.isfinite(redshift) else 0.0
        rest = wave / (1 + redshift)
        # Pixels much coarser than the fine grid, as of a prism, need no fine grid.
        spacing = min(wave[1] / wave[0], wave[-1] / wave[-2]) - 1
        which = "medium" if spacing > 6 * FINE.step else "fine"
        grid = GRIDS[which]
        part = _window(grid, rest, float(np.max(fwhm)) / wave[-1])
        sigma = _excess(grid, wave, fwhm, redshift, part)
        see = {GALAXY: _see_galaxy, STAR: _see_star, QUASAR: _see_quasar}[int(truth["kind"][0])]
        share = (*share, share[0])[:4]
        light, lines, scale = see(truth, which, part, share, sigma)
        shift = round(np.log1p(redshift) / grid.step) + _BEFORE
        dust = self._observed[which][part.start + shift : part.stop + shift]
        light = light * np.exp(float(_e_b_v(truth)[0]) * dust)
        flux = _sampled(light, grid, part, rest)
        if lines is not None:
            centres, power, width = lines
            here = np.interp(centres, rest, np.broadcast_to(fwhm, wave.shape)) / FWHM
            total = np.hypot(centres * width / C_KM_S, here / (1 + redshift))
            seen = np.interp(centres * (1 + redshift), CANVAS.wavelength, self._extinction)
            power = power * np.exp(float(_e_b_v(truth)[0]) * seen)
            flux = flux + lines_on(rest, centres, power, total)
        return flux * scale

    def nucleus_fluxes(self, truth: Truth) -> np.ndarray:
        """Return fluxes of Seyfert nuclei, which `fluxes` counts among the bulge.

        Parameters
        ----------
        truth : Truth
            Objects; those without such a nucleus give zero.

        Returns
        -------
        array of float64, shape (object, band)
            Nanomaggies, Galactic extinction applied.
        """
        result = np.zeros((len(truth), len(BANDS)))
        # One at a time: the product with the bands then has one shape.
        for i in np.flatnonzero(truth["agn"] >= 2).tolist():
            one = truth[i : i + 1]
            seen = _shifted(galaxies.nuclear_light(one)[:, None], one["redshift"])[0]
            seen *= _dimming(one)[:, None] * np.exp(_e_b_v(one)[:, None] * self._extinction)
            result[i] = (seen @ self._matrix)[0]
        return result

    def source_fluxes(self, truth: Truth) -> np.ndarray:
        """Return fluxes of lensed sources: blue star-forming galaxies at `source_redshift`.

        Parameters
        ----------
        truth : Truth
            Galaxies; those that lens nothing give zero.

        Returns
        -------
        array of float64, shape (object, band)
            Nanomaggies, with `source_flux_r` in DECam r.
        """
        lens = np.flatnonzero(truth["lens_theta_e"] > 0)
        result = np.zeros((len(truth), len(BANDS)))
        if len(lens):
            # Dust of the Milky Way lies in front of the source as of its lens.
            source = typical(truth["source_redshift"][lens], 10.0, -8.7, 0.3)
            flux = self.fluxes(source, components=False)
            k = band_extinction()
            flux = flux * 10 ** (-0.4 * truth["ebv"][lens, None] * k)
            r = flux[:, BANDS.index("decam_r")]
            result[lens] = flux * (truth["source_flux_r"][lens] / r)[:, None]
        return result


@cache
def _model() -> SedModel:
    return SedModel()


@cache
def band_extinction() -> np.ndarray:
    """Return A / E(B-V) of each band for a flat spectrum in f_lambda."""
    matrix, curve = band_matrix(), milky_way_curve(CANVAS.wavelength)
    passed = np.sum(matrix * 10 ** (-0.4 * 0.1 * curve)[:, None], axis=0) / matrix.sum(axis=0)
    return -2.5 * np.log10(passed) / 0.1


def _e_b_v(truth: Truth) -> np.ndarray:
    """Return E(B-V) in front of objects; of stars their own share."""
    own = truth["a_v_star"] / 3.1
    found = np.where((truth["kind"] == STAR) & np.isfinite(own), own, truth["ebv"])
    return np.where(np.isnan(found), 0.0, found)


def _galaxies(truth: Truth) -> np.ndarray:
    """Return f_lambda of galaxies on the canvas, (object, 3, pixel)."""
    light = _shifted(galaxies.coarse_light(truth), truth["redshift"])
    return light * _dimming(truth)[:, None, None]


def _stars(truth: Truth) -> np.ndarray:
    return _star_light(truth, "coarse", slice(OFFSET, OFFSET + len(CANVAS)))[:, None]


def _quasars(truth: Truth) -> np.ndarray:
    z = truth["redshift"]
    flux = _shifted(quasars.rest_spectra(truth, "coarse")[:, None], z)
    flux *= ((1e-5 / truth["luminosity_distance"]) ** 2 / (1 + z))[:, None, None]
    return flux * quasars.mean_transmission(CANVAS.wavelength, z)[:, None]


def _see_galaxy(truth: Truth, which: str, part: slice, share, sigma):
    """Return stars and nucleus of a galaxy on a part of a grid, lines, and the scale."""
    stars, nucleus = galaxies.fine_light(truth, share, which, part)
    own = 10.0 ** float(truth["log_sigma_star"][0]) / C_KM_S / GRIDS[which].step
    light = smoothed(stars, np.hypot(own, sigma))
    light = light * galaxies.absorption(truth, GRIDS[which].wavelength[part])
    if nucleus is not None:
        light = light + nucleus
    return light, _galaxy_lines(truth, share), float(_dimming(truth)[0])


def _see_star(truth: Truth, which: str, part: slice, share, sigma):
    return smoothed(_star_light(truth, which, part)[0], sigma), None, float(share[0])


def _see_quasar(truth: Truth, which: str, part: slice, share, sigma):
    light = quasars.rest_spectra(truth, which, part)[0]
    z = float(truth["redshift"][0])
    if which == "fine":
        light = light * quasars.forest(truth, part)
    else:
        observed = GRIDS[which].wavelength[part] * (1 + z)
        light = light * quasars.mean_transmission(observed, truth["redshift"])[0]
    scale = (1e-5 / float(truth["luminosity_distance"][0])) ** 2 / (1 + z)
    return smoothed(light, sigma), None, float(share[0]) * scale


def _dimming(truth: Truth) -> np.ndarray:
    """Return what turns solar luminosities per Angstrom at rest into observed f_lambda / 1e-17."""
    area = 4 * np.pi * (truth["luminosity_distance"] * _MPC) ** 2
    return SOLAR_LUMINOSITY / area / (1 + truth["redshift"]) / 1e-17


def _shifted(light: np.ndarray, redshift: np.ndarray) -> np.ndarray:
    """Move light (object, component, pixel) from the coarse grid at rest to the canvas."""
    shift = np.log1p(redshift) / COARSE.step
    whole = np.floor(shift).astype(int)
    part = shift - whole
    result = np.zeros((*light.shape[:2], len(CANVAS)))
    for i, (k, p) in enumerate(zip(whole, part, strict=True)):
        # Pixel j of the canvas is pixel j + OFFSET - k at rest, and some of the one below.
        first = max(k + 1 - OFFSET, 0)
        low = first + OFFSET - k
        n = min(len(CANVAS) - first, light.shape[2] - low)
        seen = light[i, :, low - 1 : low + n]
        result[i, :, first : first + n] = seen[:, 1:] * (1 - p) + seen[:, :-1] * p
    return result


def _star_light(truth: Truth, which: str, part: slice) -> np.ndarray:
    """Return f_lambda / 1e-17 of stars and their companions, no extinction, (object, pixel)."""
    stars = library(which)
    scale = SOLAR_LUMINOSITY / (4 * np.pi * (truth["distance"] * _PC) ** 2) / 1e-17
    feh = np.where(np.isnan(truth["feh"]), 0.0, truth["feh"])
    flux = stars.spectra(truth["teff"], truth["logg"], feh, part)
    flux *= 10.0 ** truth["log_luminosity"][:, None]
    pair = np.flatnonzero(truth["binary"] & np.isfinite(truth["teff_2"]))
    if len(pair):
        second = stars.spectra(truth["teff_2"][pair], truth["logg_2"][pair], feh[pair], part)
        flux[pair] += second * 10.0 ** truth["log_luminosity_2"][pair][:, None]
    return flux * scale[:, None]


def _window(grid: Grid, rest: np.ndarray, relative_fwhm: float) -> slice:
    """Return the pixels of a grid that a spectrum needs, with a margin to smooth in."""
    margin = int((0.012 + 2 * relative_fwhm) / grid.step)
    low, high = grid.position(rest[[0, -1]])
    start = min(max(int(low) - margin, 0), len(grid) - 2)
    return slice(start, max(min(int(high) + margin, len(grid)), start + 2))


def _excess(grid: Grid, wave, fwhm, redshift: float, part: slice):
    """Return the smoothing (pixels) that takes the library to the instrument's resolution."""
    if np.max(fwhm) <= _LIBRARY_FWHM * (1 + redshift):
        return 0.0
    here = grid.wavelength[part] * (1 + redshift)
    seen = np.interp(here, wave, np.broadcast_to(fwhm, wave.shape))
    square = np.maximum(seen**2 - (_LIBRARY_FWHM * (1 + redshift)) ** 2, 0.0)
    return np.sqrt(square) / FWHM / here / grid.step


def _sampled(light: np.ndarray, grid: Grid, part: slice, rest: np.ndarray) -> np.ndarray:
    """Return light at given wavelengths, averaged over pixels where these are coarse."""
    middle = len(rest) // 2
    if rest[middle] - rest[middle - 1] < 1.5 * grid.step * rest[middle]:
        return np.interp(rest, grid.wavelength[part], light, left=0.0, right=0.0)
    total = np.concatenate([[0.0], np.cumsum(light * grid.width[part])])
    half = 0.5 * np.diff(rest)
    edges = np.concatenate([[rest[0] - half[0]], rest[:-1] + half, [rest[-1] + half[-1]]])
    at = np.interp(edges, grid.edges[part.start : part.stop + 1], total)
    return np.diff(at) / np.diff(edges)


def _galaxy_lines(truth: Truth, share) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centres (A), powers (solar luminosities) and widths (km/s) of a galaxy's lines."""
    stars, nuclear = galaxies.line_light(truth)
    sigma = 10.0 ** float(truth["log_sigma_gas"][0])
    n = len(WAVELENGTHS)
    power, centres, sigmas = [stars[0] * share[2]], [WAVELENGTHS], [np.full(n, sigma)]
    agn = int(truth["agn"][0])
    if agn > 0:
        power.append(nuclear[0] * share[3])
        centres.append(WAVELENGTHS)
        sigmas.append(np.full(n, max(sigma, 10.0 ** float(truth["log_sigma_star"][0]))))
    if agn == 3:
        where, strength, width = galaxies.broad_lines(truth)
        power.append(strength * share[3])
        centres.append(where)
        sigmas.append(np.full(len(where), width))
    luminosity = np.concatenate(power) / SOLAR_LUMINOSITY
    return np.concatenate(centres), luminosity, np.concatenate(sigmas)
