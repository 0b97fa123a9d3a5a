"""DESI-like spectra: three arms as in coadd files, with noise, masks and resolution matrices.

Efficiencies follow the published ones (DESI Collaboration 2022, AJ 164, 207) and are adjusted so
that the inverse variances of real coadds of known effective exposure time come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from omnisky.mock.seeds import Seeded, stream, uniforms
from omnisky.mock.spectra.desi_instrument import ARMS, PARTS, WAVELENGTH, spectrograph
from omnisky.mock.spectra.exposure import Conditions, add_artefacts
from omnisky.mock.spectra.fibre import Aperture
from omnisky.mock.spectra.night import SkyState
from omnisky.mock.spectra.settings import (
    Sed,
    SpectrumArtefacts,
    SpectrumFlag,
    light_of,
    magnitude_in,
)
from omnisky.mock.truth import GALAXY, QUASAR, STAR, Truth

__all__ = ["DesiArm", "DesiModel", "DesiResult"]

_FIBRE = Aperture(1.5)
# Bits of the mask of a pixel, as in desispec's coadds.
_COSMIC, _NO_DATA = 4, 256
# Fibres are off their targets by 0.1 arcsec: 62 % of a point source's light is in the fibre.
_AIM = 0.97
_SEEING = 1.0


@dataclass(frozen=True)
class DesiArm:
    """Hold one arm of a spectrum, as the coadd files do.

    Parameters
    ----------
    wavelength : array of float64, shape (pixel,)
        Angstrom, vacuum.
    flux, ivar : array of float32, shape (pixel,)
        1e-17 erg s-1 cm-2 A-1, and the inverse of its variance.
    mask : array of uint32, shape (pixel,)
        0 is good.
    resolution : array of float32, shape (11, pixel)
        Diagonals of the resolution matrix, offsets 5 to -5.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    resolution: np.ndarray


@dataclass(frozen=True)
class DesiResult:
    """Hold the spectrum of one object.

    Parameters
    ----------
    b, r, z : DesiArm
        The arms.
    noiseless : array of float32, shape (7781,)
        Light in the fibre on the common grid, as a perfect instrument would calibrate it.
    flags : SpectrumFlag
        What went wrong.
    program : {"bright", "dark"}
        Survey program.
    conditions : Conditions
        Of the observation.
    effective_s : float
        Exposure under nominal dark conditions of the same depth.
    petal : int
        Spectrograph, 0 to 9.
    """

    b: DesiArm
    r: DesiArm
    z: DesiArm
    noiseless: np.ndarray
    flags: SpectrumFlag
    program: str
    conditions: Conditions
    effective_s: float
    petal: int

    @property
    def arms(self) -> dict[str, DesiArm]:
        """The arms by the letter of their camera."""
        return {"b": self.b, "r": self.r, "z": self.z}

    @cached_property
    def merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flux, inverse variance and mask (True is good) on the common grid, each (7781,).

        As the reader of coadd files merges them.
        """
        from omnisky.surveys.desi.arms import Arm, merged

        together = merged(
            Arm(PARTS[letter], arm.flux[None], arm.ivar[None], arm.mask[None])
            for letter, arm in self.arms.items()
        )
        return together.flux[0], together.ivar[0], together.mask[0]


@dataclass(frozen=True)
class _Plan:
    """How one object is observed, from a few uniform numbers."""

    program: str
    conditions: Conditions
    effective_s: float
    seeing: float
    petal: int


def _plan(truth: Truth, magnitude: float, u: np.ndarray) -> _Plan:
    """Choose program, exposure and sky. Bright-time objects get 180 s of effective time."""
    kind, sample = int(truth["kind"][0]), int(truth["sample"][0])
    bright = (kind == GALAXY and sample in (0, 1)) or (kind == STAR and magnitude < 19.5)
    normal = ndtri(u)
    seeing = _SEEING * np.exp(0.17 * normal[0])
    loss = min(0.95, _AIM * _FIBRE.point(seeing) * np.exp(-0.04 * abs(normal[1])))
    wanted, exposures, moon = 1000.0, 1 + (u[2] > 0.55) + (u[2] > 0.85), 0.06 * u[3]
    if bright:
        wanted, exposures, moon = 180.0, 1 + (u[2] > 0.8), 0.15 + 1.6 * u[3] ** 1.5
    elif kind == QUASAR and truth["redshift"][0] > 2.1:
        # Four visits for the Lyman-alpha forest, not all of them made yet.
        visits = 1 + int(4 * u[4])
        wanted, exposures = wanted * visits, exposures + visits - 1
    wanted *= np.exp(0.12 * normal[5])
    sky = SkyState(
        continuum=np.exp(0.08 * normal[6]),
        bands=np.exp(0.25 * normal[7]),
        lines=np.exp(0.30 * normal[8]),
        moon=moon,
    )
    # The exposure is stopped at the wanted depth: longer under a bright sky or in bad seeing.
    nominal = _AIM * _FIBRE.point(_SEEING)
    time = wanted * (sky.continuum + moon) * (nominal / loss) ** 2
    conditions = Conditions(time_s=time, exposures=int(exposures), loss=loss, sky=sky)
    return _Plan("bright" if bright else "dark", conditions, wanted, seeing, int(10 * u[9]))


class DesiModel:
    """Observe objects with a DESI-like instrument.

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

    def observe(self, truth: Truth, fluxes: np.ndarray | None = None) -> DesiResult:
        """Return the spectrum of one object.

        Parameters
        ----------
        truth : Truth
            Of length one.
        fluxes : array, shape (3, 24), optional
            Total fluxes of its components, nanomaggies, which decide with which program stars are
            observed; without them all stars are bright ones.
        """
        object_id = int(truth["object_id"][0])
        u = uniforms(self._seed, truth["object_id"][:1], "desi", 40)[0]
        plan = _plan(truth, magnitude_in(fluxes, "decam_r"), u[:10])
        instrument = spectrograph(plan.petal)
        light = self._sed.spectrum(
            truth,
            WAVELENGTH,
            share=_FIBRE.shares(truth, plan.seeing),
            resolution_fwhm=instrument.resolution_fwhm,
        ).astype(np.float32)
        flags = self._artefacts.flags(u[10:16])
        rng = stream(self._seed, object_id, "desi")
        out = instrument.detector.expose(
            np.concatenate([light[part] for part in PARTS.values()]),
            self._gain(flags, u[16:30]),
            plan.conditions,
            rng,
            self._artefacts.sky_error(flags),
        )
        flux, ivar, mask = out.flux, out.ivar, np.zeros(len(out.flux), dtype=np.uint32)
        if self._artefacts.bad_pixels:
            _strike(plan.conditions, ivar, mask, rng)
        if flags:
            faults = stream(self._seed, object_id, "desi faults")
            add_artefacts(flags, flux, out.sigma, ARMS, faults)
        if flags & SpectrumFlag.MISSING_ARM:
            lost = ARMS[int(3 * u[35])]
            flux[lost], ivar[lost], mask[lost] = 0.0, 0.0, _NO_DATA
        arms = instrument.arms(flux, ivar, mask)
        return DesiResult(
            *(DesiArm(*arm) for arm in arms),
            noiseless=light,
            flags=flags,
            program=plan.program,
            conditions=plan.conditions,
            effective_s=plan.effective_s,
            petal=plan.petal,
        )

    def _gain(self, flags: SpectrumFlag, u: np.ndarray) -> np.ndarray:
        """Return measured over true flux: errors of the calibration, smooth in each arm."""
        normal = ndtri(u[:10]).astype(np.float32)
        gain = np.ones(ARMS[-1].stop, dtype=np.float32)
        if self._artefacts.calibration:
            gain += np.float32(0.02) * normal[0]
            place = spectrograph(0).detector.place
            for i, arm in enumerate(ARMS):
                x = place[arm]
                a, b, c = normal[1 + 3 * i : 4 + 3 * i]
                gain[arm] += np.float32(0.01) * (a + b * x + c * (x * x - np.float32(1 / 3)))
        if flags & SpectrumFlag.LOW_THROUGHPUT:
            gain *= np.float32(0.05 + 0.4 * u[13])
        return gain


def _strike(
    conditions: Conditions, ivar: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> None:
    """Let cosmic rays hit pixels: with one exposure they are lost, with more they lose some."""
    hits = int(rng.poisson(3.0 * conditions.time_s / 1000.0))
    start = rng.integers(0, len(ivar) - 4, size=hits)
    length = rng.integers(1, 4, size=hits)
    for at, size in zip(start, length, strict=True):
        if conditions.exposures == 1:
            ivar[at : at + size] = 0.0
            mask[at : at + size] |= _COSMIC
        else:
            ivar[at : at + size] *= np.float32(1 - 1 / conditions.exposures)
