"""Spectra of the mock universe: DESI-like, SDSS-like, and Gaia XP coefficients."""

from omnisky.mock.spectra.desi import DesiArm, DesiModel, DesiResult
from omnisky.mock.spectra.gaia_xp import XpMeasurement, XpModel, XpResult
from omnisky.mock.spectra.sdss import SdssModel, SdssResult
from omnisky.mock.spectra.settings import SpectrumArtefacts, SpectrumFlag

__all__ = [
    "DesiArm",
    "DesiModel",
    "DesiResult",
    "SdssModel",
    "SdssResult",
    "SpectrumArtefacts",
    "SpectrumFlag",
    "XpMeasurement",
    "XpModel",
    "XpResult",
]
