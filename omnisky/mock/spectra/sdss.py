"""SDSS-like spectra: the quantities of a spec file, of SDSS's first spectrographs or of BOSS's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from omnisky.mock.seeds import Seeded, stream, uniforms
from omnisky.mock.spectra.exposure import Conditions, Exposed, add_artefacts
from omnisky.mock.spectra.night import SkyState
from omnisky.mock.spectra.sdss_instrument import GROUPS, Spectrograph, spectrograph
from omnisky.mock.spectra.settings import (
    Sed,
    SpectrumArtefacts,
    SpectrumFlag,
    light_of,
    magnitude_in,
)
from omnisky.mock.truth import GALAXY, Truth

__all__ = ["SdssModel", "SdssResult"]

# Bits of the masks (SPPIXMASK).
_NEAR_BAD, _FULL_REJECT, _PARTIAL_REJECT = 1 << 16, 1 << 18, 1 << 19
_BRIGHT_SKY, _COMBINE_REJECT = 1 << 23, 1 << 25
# The main samples of SDSS reached this far; what is fainter was left to BOSS.
_LIMITS = {GALAXY: 17.77}
_POINT_LIMIT = 19.1
_DICHROIC = 6000.0


@dataclass(frozen=True)
class SdssResult:
    """Hold the spectrum of one object, named as the columns of spec files.

    Parameters
    ----------
    flux, ivar : array of float32, shape (pixel,)
        1e-17 erg s-1 cm-2 A-1, and the inverse of its variance.
    loglam : array of float64, shape (pixel,)
        log10 of the vacuum wavelength in Angstrom.
    and_mask, or_mask : array of int32, shape (pixel,)
        Bits set in all and in any exposure.
    wdisp : array of float32, shape (pixel,)
        Width of the line-spread function in pixels, one sigma.
    sky : array of float32, shape (pixel,)
        The subtracted sky, calibrated like the flux.
    noiseless : array of float32, shape (pixel,)
        Light in the fibre as a perfect instrument would calibrate it.
    flags : SpectrumFlag
        What went wrong.
    instrument : {"sdss", "boss"}
        Whose spectrograph: 3 arcsec fibres from 3800 to 9200 Angstrom, or 2 arcsec ones from
        3600 to 10 350.
    conditions : Conditions
        Of the observation.
    """

    flux: np.ndarray
    ivar: np.ndarray
    loglam: np.ndarray
    and_mask: np.ndarray
    or_mask: np.ndarray
    wdisp: np.ndarray
    sky: np.ndarray
    noiseless: np.ndarray
    flags: SpectrumFlag
    instrument: str
    conditions: Conditions


class SdssModel:
    """Observe objects with SDSS-like instruments.

    Parameters
    ----------
    config : UniverseConfig
        Its seed is used.
    sed : SedModel, optional
        The light of the objects; by default the universe's.
    artefacts : SpectrumArtefacts, optional
        What can go wrong.
    """

    def __init__(
        self,
        config: Seeded,
        *,
        sed: Sed | None = None,
        artefacts: SpectrumArtefacts | None = None,
    ) -> None:
        self._seed, self._sed = config.seed, light_of(sed)
        self._artefacts = artefacts or SpectrumArtefacts()

    def observe(self, truth: Truth, fluxes: np.ndarray | None = None) -> SdssResult:
        """Return the spectrum of one object.

        Parameters
        ----------
        truth : Truth
            Of length one.
        fluxes : array, shape (3, 24), optional
            Total fluxes of its components, nanomaggies, which decide which instrument took the
            spectrum; without them it is the older one.
        """
        object_id = int(truth["object_id"][0])
        u = uniforms(self._seed, truth["object_id"][:1], "sdss", 40)[0]
        limit = _LIMITS.get(int(truth["kind"][0]), _POINT_LIMIT)
        old = magnitude_in(fluxes, "sdss_r") < limit and u[0] < 0.85
        seen_by = spectrograph("sdss" if old else "boss", int(GROUPS * u[1]))
        conditions, seeing = _conditions(seen_by, u[2:10])
        light = self._sed.spectrum(
            truth,
            seen_by.wavelength,
            share=seen_by.fibre.shares(truth, seeing),
            resolution_fwhm=seen_by.resolution_fwhm,
        ).astype(np.float32)
        flags = self._artefacts.flags(u[10:16])
        rng = stream(self._seed, object_id, "sdss")
        # What the older pipeline leaves of the sky is half as much again.
        out = seen_by.detector.expose(
            light,
            self._gain(seen_by.detector.place, flags, u[16:24]),
            conditions,
            rng,
            1.5 * self._artefacts.sky_error(flags),
        )
        masks = self._faults(object_id, seen_by, flags, out, (u[29], rng))
        blue, red = (int((n + 1) * u[30 + i]) for i, n in enumerate(seen_by.instrument.ragged))
        kept = slice(blue, len(light) - red)
        return SdssResult(
            flux=out.flux[kept],
            ivar=out.ivar[kept],
            loglam=seen_by.loglam[kept],
            and_mask=masks[0, kept],
            or_mask=masks[1, kept],
            wdisp=seen_by.wdisp[kept].astype(np.float32),
            sky=out.sky[kept],
            noiseless=light[kept],
            flags=flags,
            instrument=seen_by.instrument.name,
            conditions=conditions,
        )

    def _faults(
        self,
        object_id: int,
        seen_by: Spectrograph,
        flags: SpectrumFlag,
        out: Exposed,
        chance: tuple[float, np.random.Generator],
    ) -> np.ndarray:
        """Add faults to a spectrum in place; return the masks of all and of any exposures."""
        masks = np.zeros((2, len(out.flux)), dtype=np.int32)
        masks[:, seen_by.bright_sky] = _BRIGHT_SKY
        joint = int(np.searchsorted(seen_by.wavelength, _DICHROIC))
        arms = (slice(0, joint), slice(joint, len(out.flux)))
        if self._artefacts.bad_pixels:
            _strike(out.ivar, masks, chance[1])
        if flags:
            faults = stream(self._seed, object_id, "sdss faults")
            add_artefacts(flags, out.flux, out.sigma, arms, faults)
        if flags & SpectrumFlag.MISSING_ARM:
            lost = arms[int(2 * chance[0])]
            out.flux[lost], out.ivar[lost], masks[:, lost] = 0.0, 0.0, _FULL_REJECT
        return masks

    def _gain(self, place: np.ndarray, flags: SpectrumFlag, u: np.ndarray) -> np.ndarray:
        """Return measured over true flux: errors of the calibration, smooth, larger in the blue."""
        a, b, c = ndtri(u[:3]).astype(np.float32)
        gain = np.ones(len(place), dtype=np.float32)
        if self._artefacts.calibration:
            gain += np.float32(0.03) * a + np.float32(0.025) * b * place
            blue = (np.float32(1) - place) * np.float32(0.5)
            gain += np.float32(0.03) * c * blue**4
        if flags & SpectrumFlag.LOW_THROUGHPUT:
            gain *= np.float32(0.05 + 0.4 * u[3])
        return gain


def _conditions(seen_by: Spectrograph, u: np.ndarray) -> tuple[Conditions, float]:
    """Return conditions and seeing: dark nights, plates exposed until they are deep enough."""
    normal = ndtri(u)
    instrument = seen_by.instrument
    seeing = 1.5 * np.exp(0.14 * normal[0])
    loss = min(0.97, instrument.loss * seen_by.fibre.point(seeing) / seen_by.fibre.point(1.5))
    more = int(u[1] > 0.6) + int(u[1] > 0.9)
    sky = SkyState(
        continuum=np.exp(0.10 * normal[2]),
        bands=np.exp(0.30 * normal[3]),
        lines=np.exp(0.35 * normal[4]),
        moon=0.1 * u[5],
    )
    time = instrument.time_s * (1 + more / instrument.exposures) * np.exp(0.12 * normal[6])
    exposures = instrument.exposures + more
    return Conditions(time_s=time, exposures=exposures, loss=loss, sky=sky), seeing


def _strike(ivar: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> None:
    """Reject pixels hit by cosmic rays, and flag stretches beside bad columns."""
    n = len(ivar)
    hits = int(rng.poisson(2.5))
    for at, size in zip(rng.integers(0, n - 6, hits), rng.integers(1, 6, hits), strict=True):
        ivar[at : at + size] = 0.0
        masks[:, at : at + size] |= _NEAR_BAD | _FULL_REJECT
    crossed = int(rng.poisson(0.4))
    for at, size in zip(
        rng.integers(0, n - 90, crossed), rng.integers(10, 90, crossed), strict=True
    ):
        masks[:, at : at + size] |= _NEAR_BAD | _PARTIAL_REJECT
    # In single exposures much more is rejected, which the mean survives.
    some = rng.integers(0, n - 4, 110)
    for shift in range(3):
        masks[1, some + shift] |= _COMBINE_REJECT
