"""The two SDSS-like instruments, SDSS of 2000 and BOSS of 2009: grids, efficiencies, resolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.interpolate import PchipInterpolator

from omnisky.mock.seeds import normals
from omnisky.mock.spectra.exposure import Detector, transmission
from omnisky.mock.spectra.fibre import Aperture
from omnisky.mock.spectra.night import NightSky

__all__ = ["GROUPS", "INSTRUMENTS", "Instrument", "Spectrograph", "spectrograph"]

GROUPS = 8
STEP = 1e-4


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """State what an instrument is like.

    Parameters
    ----------
    name : str
        Name.
    fibre_arcsec : float
        Diameter of its fibres.
    loglam : (int, int)
        First and one past the last pixel, log10 of the wavelength in Angstrom over 1e-4.
    ragged : (int, int)
        Up to so many pixels are missing at the blue and at the red end of a spectrum.
    time_s : float
        Usual exposure, in `exposures` parts.
    exposures : int
        Usual number of exposures.
    loss : float
        Share of a point source's light in the fibre, usually.
    electrons : str
        Nodes of wavelength and photo-electrons, in a usual exposure, of a pixel with a calibrated
        flux density of 1e-17 erg s-1 cm-2 A-1.
    read_variance : float
        Electrons squared of an extracted pixel, one exposure.
    wdisp : str
        Nodes of wavelength and width of the line-spread function in pixels, one sigma.
    """

    name: str
    fibre_arcsec: float
    loglam: tuple[int, int]
    ragged: tuple[int, int]
    time_s: float
    exposures: int
    loss: float
    electrons: str
    read_variance: float
    wdisp: str


INSTRUMENTS = {
    # Solved from fluxes, skies and inverse variances of 44 spectra of one real plate (3655).
    "boss": Instrument(
        name="boss",
        fibre_arcsec=2.0,
        loglam=(35508, 40162),
        ragged=(46, 26),
        time_s=4500.0,
        exposures=5,
        loss=0.64,
        electrons="""3540 3 3620 6.5 3700 11 3800 17.8 3900 24 4000 29 4200 40 4400 49 4600 57
            4800 65 5000 70 5200 75 5600 76 5800 73 5900 69 6000 69 6100 71 6200 76 6300 82 6500 98
            6700 110 7000 122 7300 128 7600 123 8000 124 8500 123 9000 125 9200 120 9600 89 9800 74
            10000 46 10200 22 10350 10.5 10420 8""",
        read_variance=26.0,
        wdisp="""3600 1.36 3800 1.25 4000 1.16 4400 1.04 4800 .92 5200 .85 5600 .81 5850 .82
            6050 .96 6250 1.01 6500 .97 7000 .885 7600 .85 8200 .82 9000 .82 9600 .85 10350 .90""",
    ),
    # A larger fibre, less exposure and half the efficiency of BOSS; no real file was at hand.
    "sdss": Instrument(
        name="sdss",
        fibre_arcsec=3.0,
        loglam=(35788, 39660),
        ragged=(20, 20),
        time_s=2700.0,
        exposures=3,
        loss=0.84,
        electrons="""3780 3 3850 5 4000 10 4400 20 5000 28 5500 31 5900 27 6150 31 6500 41 7000 50
            7500 51 8000 48 8500 44 9000 37 9260 30""",
        read_variance=125.0,
        wdisp="3800 1.15 4500 1.0 5300 .93 5900 .95 6200 1.08 7000 .98 8000 .90 9200 .88",
    ),
}
# Lines so many times as bright as the dark continuum are flagged: 5 % of pixels, as in real files.
_SKY_BRIGHT = 4.1


class Spectrograph:
    """Hold one group of fibres of an instrument; groups differ a little in their resolution.

    Parameters
    ----------
    instrument : Instrument
        Which.
    group : int
        Number of the group, 0 to 7.
    """

    def __init__(self, instrument: Instrument, group: int) -> None:
        self.instrument = instrument
        self.fibre = Aperture(instrument.fibre_arcsec)
        self.loglam = np.arange(*instrument.loglam) * STEP
        self.wavelength = 10.0**self.loglam
        self.place = np.linspace(-1, 1, len(self.loglam), dtype=np.float32)
        differ = normals(0, np.array([group]), f"{instrument.name} spectrographs", 3)[0].clip(-2, 2)
        self.wdisp = _curve(instrument.wdisp, self.wavelength)
        self.wdisp *= 1 + 0.09 * differ[0] + 0.05 * differ[1] * self.place
        pixel = self.wavelength * STEP * np.log(10)
        sigma = self.wdisp * pixel
        self.resolution_fwhm = 2 * np.sqrt(2 * np.log(2)) * sigma
        electrons = _curve(instrument.electrons, self.wavelength) * (1 + 0.08 * differ[2])
        # Redder bands are in the nodes on average.
        electrons *= np.where(self.wavelength < 9000, transmission(self.wavelength), 1.0)
        ripple = 1 + 0.05 * normals(group, np.arange(len(pixel)), instrument.name, 1)[:, 0]
        self.detector = Detector(
            electrons / (instrument.time_s * instrument.loss),
            np.full(len(pixel), instrument.read_variance),
            NightSky(self.wavelength, sigma),
            self.fibre.area_arcsec2,
            ripple,
            self.place,
        )
        sky = self.detector.sky
        self.bright_sky = sky.bands + sky.lines > _SKY_BRIGHT * sky.continuum


def _curve(text: str, at: np.ndarray) -> np.ndarray:
    """Return a smooth curve through nodes given as text, at wavelengths."""
    nodes = np.array(text.split(), dtype=float).reshape(-1, 2).T
    return PchipInterpolator(*nodes)(at.clip(nodes[0, 0], nodes[0, -1]))


@cache
def spectrograph(name: str, group: int) -> Spectrograph:
    """Return a group of fibres of an instrument by its name, built once."""
    return Spectrograph(INSTRUMENTS[name], group)
