"""What can go wrong with a spectrum, and how a result says that it did."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Any, Protocol

import numpy as np

from omnisky.mock.truth import Truth

__all__ = ["Sed", "SpectrumArtefacts", "SpectrumFlag", "light_of", "magnitude_in"]


class Sed(Protocol):
    """What the instruments need of a model of light: ``spectrum``, as of `SedModel`."""

    def spectrum(
        self, truth: Truth, wavelength_angstrom: np.ndarray, *, share=..., resolution_fwhm=...
    ) -> np.ndarray: ...


def light_of(sed: Sed | None) -> Sed:
    """Return a model of light: the one given, else the universe's."""
    if sed is not None:
        return sed
    from omnisky.mock.sed import SedModel

    return SedModel.load()


def magnitude_in(fluxes: np.ndarray | None, band: str) -> float:
    """Return the AB magnitude of all components together; 0 without fluxes.

    Parameters
    ----------
    fluxes : array, shape (3, 24), optional
        Nanomaggies, in the order of `BANDS`.
    band : str
        One of `BANDS`.
    """
    if fluxes is None:
        return 0.0
    from omnisky.mock.sed import BANDS

    total = float(np.asarray(fluxes)[:, BANDS.index(band)].sum())
    return 22.5 - 2.5 * np.log10(max(total, 1e-6))


class SpectrumFlag(IntFlag):
    """Name what happened to a spectrum; the sum of these is in a result's `flags`."""

    NONE = 0
    LOW_THROUGHPUT = 1  # the fibre missed the object: faint, noisy, calibrated too low
    AMPLIFIER_STEP = 2  # the two amplifiers of a detector differ from some wavelength on
    MISSING_ARM = 4  # one arm has no data
    COSMIC_LEFT = 8  # a cosmic ray that the pipeline did not see
    SKY_LEFT = 16  # sky subtraction three times worse than usual
    NEIGHBOUR = 32  # light of a bright neighbour on the detector leaks in


@dataclass(frozen=True, kw_only=True)
class SpectrumArtefacts:
    """State which artefacts spectra have, and how often.

    Parameters
    ----------
    sky_residuals : bool
        Whether subtracting the sky leaves some of it: per cents, most at its lines.
    calibration : bool
        Whether the flux calibration errs, by 2 % and smoothly, with steps between arms.
    bad_pixels : bool
        Whether cosmic rays and bad columns mask pixels.
    low_throughput, amplifier_step, missing_arm, cosmic_left, sky_left, neighbour : float
        Chance that a spectrum has this one; see `SpectrumFlag`.

    Raises
    ------
    ValueError
        If a chance is not from 0 to 1.
    """

    sky_residuals: bool = True
    calibration: bool = True
    bad_pixels: bool = True
    low_throughput: float = 0.01
    amplifier_step: float = 0.01
    missing_arm: float = 0.003
    cosmic_left: float = 0.03
    sky_left: float = 0.02
    neighbour: float = 0.005

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ValueError(
                        f"SpectrumArtefacts.{field.name} is True or False; found {value!r}"
                    )
            elif not 0 <= value <= 1:
                raise ValueError(
                    f"SpectrumArtefacts.{field.name} is a chance, from 0 to 1; found {value!r}"
                )

    @classmethod
    def none(cls) -> SpectrumArtefacts:
        """Return the settings of a perfect instrument: photon and read noise only."""
        off: dict[str, Any] = {f.name: type(f.default)(0) for f in fields(cls)}
        return cls(**off)

    def sky_error(self, flags: SpectrumFlag) -> float:
        """Return how badly the sky is subtracted: 0 is perfectly, 1 as usual."""
        worse = 3.0 if flags & SpectrumFlag.SKY_LEFT else 1.0
        return worse if self.sky_residuals else 0.0

    def flags(self, u: np.ndarray) -> SpectrumFlag:
        """Return which of the rare artefacts happen.

        Parameters
        ----------
        u : array, shape (6,)
            Uniform numbers, one an artefact.
        """
        chances = (
            (self.low_throughput, SpectrumFlag.LOW_THROUGHPUT),
            (self.amplifier_step, SpectrumFlag.AMPLIFIER_STEP),
            (self.missing_arm, SpectrumFlag.MISSING_ARM),
            (self.cosmic_left, SpectrumFlag.COSMIC_LEFT),
            (self.sky_left, SpectrumFlag.SKY_LEFT),
            (self.neighbour, SpectrumFlag.NEIGHBOUR),
        )
        found = SpectrumFlag.NONE
        for number, (chance, flag) in zip(u, chances, strict=True):
            if number < chance:
                found |= flag
        return found
