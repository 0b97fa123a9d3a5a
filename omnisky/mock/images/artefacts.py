"""What detectors and pipelines do to images, each switchable and flagged."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from omnisky.mock.images.instruments import Conditions, Instrument

__all__ = ["NO_ARTEFACTS", "Artefacts", "Damage"]


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Say how likely each artefact is in an image; 0 switches it off, 1 always applies it.

    Parameters
    ----------
    saturation : float
        Pixels beyond the full well are cut off and masked, with bleed trails from the brightest.
    spikes : float
        Diffraction spikes of bright stars.
    cosmic_ray : float
        A track that was not rejected, in one band.
    satellite : float
        A trail that was not masked fully, in one band.
    chip_gap : float
        An edge beyond which fewer exposures were added: noisier in one band.
    oversubtraction : float
        Sky taken too high where a galaxy fills the frame.
    sky_residual : float
        Sky taken slightly too high in each band, for faint sources count as sky: by 0 to 0.14 of
        the noise of a pixel, as the corners of real cut-outs show.
    missing : float
        A strip without data in one band.
    correlation : float
        Noise shared by neighbouring pixels.

    Raises
    ------
    ValueError
        If a probability is not within 0 and 1.
    """

    saturation: float = 1.0
    spikes: float = 1.0
    cosmic_ray: float = 0.05
    satellite: float = 0.012
    chip_gap: float = 0.10
    oversubtraction: float = 0.8
    sky_residual: float = 1.0
    missing: float = 0.006
    correlation: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ValueError(
                    f"Artefacts({field.name}={value!r}) is no probability; give a number from 0 "
                    "(never) to 1 (always)"
                )


_NAMES = tuple(field.name for field in fields(Artefacts))
NO_ARTEFACTS = Artefacts(**dict.fromkeys(_NAMES, 0.0))


class Damage:
    """Draw which artefacts strike one image, and apply them.

    Parameters
    ----------
    artefacts : Artefacts
        How likely each is.
    chance : array, shape (NUMBERS,)
        Uniform numbers.
    instrument : Instrument
        The survey.

    Attributes
    ----------
    NUMBERS : int
        Uniform numbers that it takes.
    flags : set of str
        Names of the artefacts that struck.
    """

    NUMBERS = len(_NAMES) + 32

    def __init__(self, artefacts: Artefacts, chance: np.ndarray, instrument: Instrument) -> None:
        self._instrument = instrument
        self._hit = {n: u < getattr(artefacts, n) for n, u in zip(_NAMES, chance, strict=False)}
        self._u = chance[len(_NAMES) :]
        self.flags: set[str] = set()

    def hit(self, name: str) -> bool:
        """Tell whether an artefact is switched on in this image."""
        return bool(self._hit[name])

    def saturates(self, scene: np.ndarray) -> bool:
        """Tell whether any pixel of a scene (band, y, x) is beyond the full well."""
        peaks = scene.max(axis=(1, 2))
        return self.hit("saturation") and bool((peaks > self._instrument.saturation).any())

    def degrade(self, variance: np.ndarray) -> None:
        """Raise the variance beyond the edge of a chip, in place."""
        if not self.hit("chip_gap"):
            return
        u, (bands, _, columns) = self._u, variance.shape
        band = int(u[0] * bands)
        exposures = 2 + int(3 * u[1])
        factor = np.float32(exposures / (exposures - 1))
        edge = int((0.1 + 0.8 * u[2]) * columns)
        part = slice(edge, None) if u[3] < 0.5 else slice(None, edge)
        strip = variance[band, part] if u[4] < 0.5 else variance[band, :, part]
        strip *= factor
        self.flags.add("chip_gap")

    def subtract_sky(self, flux: np.ndarray, conditions: Conditions) -> None:
        """Take the sky too high: slightly, and where a galaxy fills the frame, in place."""
        if self.hit("sky_residual"):
            bands = len(flux)
            level = 0.14 * self._u[24 : 24 + bands] * np.array(conditions.sigma)
            flux -= level.astype(np.float32)[:, None, None]
            self.flags.add("sky_residual")
        if not self.hit("oversubtraction"):
            return
        low = np.sort(flux[:, 4::12, 4::12].reshape(len(flux), -1), axis=1)
        low = low[:, low.shape[1] // 4]
        share = np.float32(0.3 + 0.7 * self._u[5])
        seen = low > 0.05 * np.array(conditions.sigma)
        if seen.any():
            flux -= (share * low)[:, None, None]
            self.flags.add("oversubtraction")

    def strike(self, flux: np.ndarray, scene: np.ndarray | None, mask: np.ndarray) -> None:
        """Saturate, bleed, and add tracks, trails and strips without data, in place.

        Parameters
        ----------
        flux : array of float32, shape (band, y, x)
            Noisy image, nmgy.
        scene : array of float32, shape (band, y, x), or None
            Without noise; not needed where nothing saturates.
        mask : array of bool, shape (band, y, x)
            True where a pixel is good.
        """
        if scene is not None and self.saturates(scene):
            self._saturate(flux, scene, mask)
        if self.hit("cosmic_ray"):
            self._cosmic_ray(flux, mask)
        if self.hit("satellite"):
            self._satellite(flux, mask)
        if self.hit("missing"):
            self._missing(flux, mask)

    def _saturate(self, flux: np.ndarray, scene: np.ndarray, mask: np.ndarray) -> None:
        for band, full in enumerate(self._instrument.saturation):
            if scene[band].max() < full:
                continue
            self.flags.add("saturation")
            beyond = scene[band] > full
            np.minimum(flux[band], np.float32(full), out=flux[band])
            wide = beyond.copy()
            wide[1:] |= beyond[:-1]
            wide[:-1] |= beyond[1:]
            wide[:, 1:] |= beyond[:, :-1]
            wide[:, :-1] |= beyond[:, 1:]
            mask[band] &= ~wide
            self._bleed(band, flux, mask, np.where(beyond, scene[band] / full, 0.0))

    def _bleed(self, band: int, flux: np.ndarray, mask: np.ndarray, over: np.ndarray) -> None:
        """Spill charge along the columns of the detector: rows of DECam images, else columns."""
        along_x = self._instrument.name == "legacysurvey"
        total = over.sum(axis=1 if along_x else 0)
        worst = int(total.argmax())
        if total[worst] < 60:
            return
        line = over[worst] if along_x else over[:, worst]
        middle = int(line.argmax())
        length = int(min(6 + 0.12 * total[worst], 70))
        part = slice(max(0, middle - length), middle + length)
        width = slice(max(0, worst - 1), worst + 1 + int(total[worst] > 200))
        at = (band, width, part) if along_x else (band, part, width)
        full = np.float32(self._instrument.saturation[band])
        flux[at] = np.maximum(flux[at], full * np.float32(0.6))
        mask[at] = False
        self.flags.add("bleed")

    def _line(self, shape: tuple[int, int], u: np.ndarray, width: float) -> np.ndarray:
        """Return distance weights about a straight line through the frame, shape (y, x)."""
        rows, columns = shape
        y, x = np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)
        angle = np.pi * u[0]
        off = (x - np.float32(u[1] * columns)) * np.float32(np.sin(angle))
        off = off - (y - np.float32(u[2] * rows)) * np.float32(np.cos(angle))
        return np.exp(-((off * np.float32(1 / width)) ** 2))

    def _cosmic_ray(self, flux: np.ndarray, mask: np.ndarray) -> None:
        u, (bands, rows, columns) = self._u[6:13], flux.shape
        band, length = int(u[0] * bands), 3 + 40 * u[4] ** 3
        y = np.arange(rows, dtype=np.float32)[:, None] - np.float32(u[3] * rows)
        x = np.arange(columns, dtype=np.float32) - np.float32(u[2] * columns)
        near = x * x + y * y < length**2 / 4
        track = self._line((rows, columns), np.array([u[1], u[2], u[3]]), 0.7) * near
        level = np.float32(np.median(np.abs(flux[band, ::7, ::7])) * (15 + 120 * u[5]))
        flux[band] += level * track
        # Pipelines find most of a track, seldom its ends.
        mask[band] &= ~((track > 0.3) & (u[6] < 0.6))
        self.flags.add("cosmic_ray")

    def _satellite(self, flux: np.ndarray, mask: np.ndarray) -> None:
        u, (bands, rows, columns) = self._u[13:19], flux.shape
        band = int(u[0] * bands)
        trail = self._line((rows, columns), u[1:4], 2.0 + 2 * u[4])
        level = np.float32(np.median(np.abs(flux[band, ::7, ::7])) * (2 + 12 * u[5] ** 2))
        flux[band] += level * trail
        mask[band] &= trail < 0.5
        self.flags.add("satellite")

    def _missing(self, flux: np.ndarray, mask: np.ndarray) -> None:
        u, (bands, _, columns) = self._u[19:24], flux.shape
        band, edge = int(u[0] * bands), int(u[1] * columns)
        part = slice(edge, edge + 4 + int(40 * u[2] ** 2)) if u[3] < 0.5 else slice(edge, None)
        at = (band, part) if u[4] < 0.5 else (band, slice(None), part)
        flux[at], mask[at] = 0.0, False
        self.flags.add("missing")
