"""Images of the objects of the mock universe, as two surveys take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from omnisky.mock import seeds
from omnisky.mock.images.artefacts import Artefacts, Damage
from omnisky.mock.images.frame import Frame, reach
from omnisky.mock.images.instruments import INSTRUMENTS, Conditions, Instrument, conditions_at
from omnisky.mock.images.light import MERGER, Shape, draw_source
from omnisky.mock.images.neighbours import COLOUR_BANDS, Sources, around
from omnisky.mock.images.noise import bit_generator, correlated_normals, smoothed
from omnisky.mock.images.paint import paint_galaxy
from omnisky.mock.seeds import Seeded
from omnisky.mock.truth import GALAXY, Truth

__all__ = ["ImageModel", "StampResult"]

# Flux over the noise of a pixel below which neighbours are left out: a point source at 2.3 sigma.
_FAINTEST = 16.0
# Flux over the noise of a pixel from which neighbours are drawn like objects.
_BRIGHT_STAR, _BRIGHT_GALAXY = 10000.0, 1500.0


@dataclass(frozen=True, kw_only=True)
class StampResult:
    """Hold an image of one object and what is known of it.

    Parameters
    ----------
    flux : array of float32, shape (band, y, x)
        nmgy a pixel; north is up (y grows) and east to the left. Bad pixels hold what the detector
        gave.
    ivar : array of float32, shape (band, y, x)
        Inverse variance of each pixel, 1 / nmgy^2; 0 in bad pixels. Neighbouring pixels share noise
        on top of that.
    mask : array of bool, shape (band, y, x)
        True where a pixel is good.
    psf_fwhm : array of float32, shape (band,)
        Width of the PSF, arcsec.
    offset : array of float32, shape (2,)
        Position of the object in x and y relative to the centre of the image, pixels.
    segmentation : array of int16, shape (y, x), or None
        0 sky, 1 the object, from 2 its neighbours, where brightest and above the noise in r.
    arm_mask, bar_mask : array of bool, shape (y, x), or None
        Where arms and bar of the object are; nowhere if it has none.
    noiseless : array of float32, shape (band, y, x), or None
        Light of all sources through the PSF, nmgy.
    flags : tuple of str
        Artefacts in the image.
    """

    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    psf_fwhm: np.ndarray
    offset: np.ndarray
    segmentation: np.ndarray | None
    arm_mask: np.ndarray | None
    bar_mask: np.ndarray | None
    noiseless: np.ndarray | None
    flags: tuple[str, ...] = field(default=())


class ImageModel:
    """Take images of mock objects with one instrument.

    An image is a function of the seed, the object and the instrument; the object's neighbours are
    the same in both instruments.

    Parameters
    ----------
    config : Seeded
        Anything with the `seed` of the universe.
    instrument : {"legacysurvey", "hsc"}
        The survey.
    artefacts : Artefacts, optional
        How likely artefacts are.

    Raises
    ------
    KeyError
        If there is no such instrument.
    """

    def __init__(
        self, config: Seeded, instrument: str, *, artefacts: Artefacts | None = None
    ) -> None:
        if instrument not in INSTRUMENTS:
            raise KeyError(
                f"no instrument {instrument!r}; images are taken with {', '.join(INSTRUMENTS)}"
            )
        self.seed = int(config.seed)
        self.instrument: Instrument = INSTRUMENTS[instrument]
        self.artefacts = artefacts or Artefacts()
        self._columns = _columns(self.instrument)

    def render(
        self,
        truth: Truth,
        fluxes: np.ndarray,
        *,
        size: int = 160,
        noise: bool = True,
        offset: tuple[float, float] | None = None,
        source_fluxes: np.ndarray | None = None,
        neighbours: bool = True,
        maps: bool = True,
    ) -> StampResult:
        """Take an image of one object.

        Parameters
        ----------
        truth : Truth
            The object: a truth table of length 1.
        fluxes : array, shape (3, SED band)
            Fluxes of its components (bulge, disk, young) in `omnisky.mock.sed.BANDS`, nmgy. Light
            of an active nucleus, which is in the first, is shown as a point.
        size : int
            Side of the image in pixels.
        noise : bool
            Whether to add noise and artefacts of the detector.
        offset : (float, float), optional
            Position of the object in x and y relative to the centre of the image, pixels: where it
            lies in the pixels of the survey's mosaic. Without it, somewhere in the middle pixel.
        source_fluxes : array, shape (SED band,), optional
            Unlensed fluxes of the source behind a lens; those of the SED model by default.
        neighbours : bool
            Whether to draw other sources.
        maps : bool
            Whether to make segmentation and masks of arms and bar, and to keep the image without
            noise.

        Raises
        ------
        ValueError
            If there is not one object, the size is not positive, or fluxes have another shape.
        """
        fluxes = self._check(truth, fluxes, size)
        number = int(truth["object_id"][0])
        ra, dec = float(truth["ra"][0]), float(truth["dec"][0])
        seen = conditions_at(self.seed, self.instrument, ra, dec)
        purpose = f"images/{self.instrument.name}/exposure"
        (chance,) = seeds.uniforms(self.seed, np.array([number]), purpose, 6 + Damage.NUMBERS)
        shift = chance[:2] - 0.5 if offset is None else np.asarray(offset, dtype=np.float64)
        middle = (size - 1) / 2
        at = (middle + float(shift[0]), middle + float(shift[1]))
        frame = Frame(self.instrument, seen, size, at, maps)
        damage = Damage(self.artefacts, chance[6:], self.instrument)
        spikes = noise and damage.hit("spikes")
        arm_mask, bar_mask = self._object(frame, truth, fluxes, source_fluxes)
        spiked = False
        if spikes and truth["kind"][0] != GALAXY:
            spiked = frame.add_spikes(fluxes.sum(axis=0), frame.at)
        if neighbours:
            spiked |= self._neighbours(frame, number, spikes=spikes)
        if spiked:
            damage.flags.add("spikes")
        return StampResult(
            psf_fwhm=np.array([p.fwhm_arcsec for p in seen.psfs], dtype=np.float32),
            offset=shift.astype(np.float32),
            segmentation=frame.segmentation,
            arm_mask=arm_mask,
            bar_mask=bar_mask,
            **self._observe(frame, damage if noise else None, bit_generator(chance[2:6])),
        )

    def _check(self, truth: Truth, fluxes: np.ndarray, size: int) -> np.ndarray:
        """Return fluxes (component, band) of this instrument."""
        if len(truth) != 1:
            raise ValueError(
                f"an image shows one object, but the truth table has {len(truth)}; give "
                "truth[i : i + 1]"
            )
        if isinstance(size, bool) or int(size) != size or not 8 <= size <= 4096:
            raise ValueError(f"size={size!r} is no side of an image; give 8 to 4096 pixels")
        found = np.asarray(fluxes, dtype=np.float64)
        if found.ndim != 2 or found.shape[0] != 3 or found.shape[1] <= max(self._columns):
            raise ValueError(
                f"fluxes have shape {found.shape}; expected (3, {max(self._columns) + 1}) or more "
                "bands: bulge, disk and young light, as SedModel.fluxes returns for one object"
            )
        found = found[:, self._columns]
        if not np.isfinite(found).all() or (found < 0).any():
            raise ValueError(
                f"fluxes of object {int(truth['object_id'][0])} are negative or not finite; "
                "expected nanomaggies"
            )
        return found

    def _object(
        self,
        frame: Frame,
        truth: Truth,
        fluxes: np.ndarray,
        source_fluxes: np.ndarray | None,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Add the object itself; return the masks of arms and bar."""
        if truth["kind"][0] != GALAXY:
            frame.add_point(fluxes.sum(axis=0), frame.at)
            empty = np.zeros((frame.size, frame.size), dtype=bool) if frame.maps else None
            return empty, empty
        number = int(truth["object_id"][0])
        ids = np.array([number])
        (detail,) = seeds.uniforms(self.seed, ids, "images/detail", 48)
        shape = Shape.of(truth, detail)
        source = None
        if float(truth["lens_theta_e"][0]) > 0:
            source = self._source(truth, source_fluxes)
        fluxes = self._with_nucleus(truth, fluxes)
        masks = paint_galaxy(frame, frame.at, shape, fluxes, (self.seed, number), source=source)
        if shape.morphology == MERGER and float(truth["merger_ratio"][0]) > 0:
            self._companion(frame, truth, shape, fluxes[:3])
        return masks

    def _with_nucleus(self, truth: Truth, fluxes: np.ndarray) -> np.ndarray:
        """Return fluxes with the light of an active nucleus, a point, as a fourth component."""
        if truth["agn"][0] < 2:
            return fluxes
        from omnisky.mock.sed import SedModel

        light = SedModel.load().nucleus_fluxes(truth)[0, self._columns]
        nucleus = np.minimum(light, fluxes[0])
        return np.vstack([fluxes[:1] - nucleus, fluxes[1:], nucleus[None]])

    def _source(self, truth: Truth, source_fluxes: np.ndarray | None):
        """Return what draws a lensed source on a grid, and its fluxes (band,)."""
        if source_fluxes is None:
            from omnisky.mock.sed import SedModel

            source_fluxes = SedModel.load().source_fluxes(truth)[0]
        found = np.asarray(source_fluxes, dtype=np.float64)[self._columns]
        return (lambda grid: draw_source(truth, grid)), found

    def _companion(self, frame: Frame, truth: Truth, shape: Shape, fluxes: np.ndarray) -> None:
        """Add the other galaxy of a merger; its light comes on top of the object's."""
        number = int(truth["object_id"][0])
        ratio = min(float(truth["merger_ratio"][0]), 1.0)
        angle = np.radians(float(truth["merger_angle"][0]))
        away = float(truth["merger_separation"][0])
        ids = np.array([number])
        (detail,) = seeds.uniforms(self.seed, ids, "images/companion", 56)
        smaller = ratio**0.4 * (0.7 + 0.5 * detail[48])
        other = replace(
            shape,
            detail=detail[:48],
            re_disk=shape.re_disk * smaller,
            re_bulge=shape.re_bulge * smaller,
            q_disk=0.3 + 0.65 * float(detail[49]),
            q_bulge=0.6 + 0.4 * float(detail[50]),
            inclination=float(np.degrees(np.arccos(0.3 + 0.65 * detail[49]))),
            pa=180 * float(detail[51]),
            merger_angle=shape.merger_angle + 180,
            tail_strength=0.7 * shape.tail_strength,
            bar_length=0.0,
            ring_radius=0.0,
            arm_phase=360 * float(detail[52]),
        )
        mix = np.array([0.4 + 1.2 * detail[53], 1.0, 0.4 + 1.2 * detail[54]])[:, None] * fluxes
        mix *= ratio * fluxes.sum() / max(mix.sum(), 1e-30)
        at = frame.pixel(away * np.sin(angle), away * np.cos(angle))
        paint_galaxy(frame, at, other, mix, (self.seed, number), knots="images/companion/knots")

    def _neighbours(self, frame: Frame, number: int, *, spikes: bool) -> bool:
        """Add other sources; tell whether one of them has spikes."""
        scale = self.instrument.pixel_scale_arcsec
        found = around(self.seed, number, frame.size * scale / 2)
        columns = [COLOUR_BANDS.index(band) for band in self.instrument.bands]
        fluxes = found.flux[:, columns]
        x, y = frame.at[0] - found.east / scale, frame.at[1] + found.north / scale
        excess = (fluxes / np.array(frame.conditions.sigma)).max(axis=1)
        margin = reach(excess, frame.conditions, scale) + 3 * found.re / scale
        near = (np.abs(x - frame.size / 2) < frame.size / 2 + margin) & (
            np.abs(y - frame.size / 2) < frame.size / 2 + margin
        )
        near &= excess > _FAINTEST
        # Galaxies that the PSF smears out need no more than an ellipse.
        large = found.re > 1.3 * min(psf.fwhm_arcsec for psf in frame.conditions.psfs)
        bright = near & np.where(
            found.star, excess > _BRIGHT_STAR, (excess > _BRIGHT_GALAXY) & (large | (excess > 8000))
        )
        faint = near & ~bright
        shapes = np.stack([np.where(found.star, 0, found.re / scale), found.q, found.pa], axis=1)
        frame.add_faint(fluxes[faint], x[faint], y[faint], shapes[faint])
        spiked = False
        for k in np.flatnonzero(bright).tolist():
            one = found.only(np.array([k]))
            spiked |= self._bright(frame, one, fluxes[k], (number, k, spikes))
        return spiked

    def _bright(
        self, frame: Frame, source: Sources, fluxes: np.ndarray, key: tuple[int, int, bool]
    ) -> bool:
        """Add one bright neighbour, drawn like an object; tell whether it has spikes."""
        number, k, spikes = key
        at = frame.pixel(float(source.east[0]), float(source.north[0]))
        if source.star[0]:
            frame.add_point(fluxes, at)
            return spikes and frame.add_spikes(fluxes, at)
        (detail,) = seeds.uniforms(self.seed, np.array([number]), f"images/neighbour/{k}", 64)
        paint_galaxy(
            frame, at, _any_galaxy(source, detail), _split(source, fluxes), (0, 0), knots=""
        )
        return False

    def _observe(
        self, frame: Frame, damage: Damage | None, bits: np.random.BitGenerator
    ) -> dict[str, Any]:
        """Add noise and artefacts; return the fields of the result that they make."""
        seen: Conditions = frame.conditions
        scene = frame.flux
        ivar = np.empty_like(scene)
        mask = np.ones(scene.shape, dtype=bool)
        shift = seen.shift if damage is None or damage.hit("correlation") else 0.0
        for band, (sigma, sky) in enumerate(zip(seen.sigma, seen.sky, strict=True)):
            variance = (sigma * smoothed(shift)) ** 2
            # Transforms leave less than nothing beside bright stars; their noise is the sky's.
            np.maximum(scene[band], np.float32(0), out=ivar[band])
            ivar[band] *= np.float32(variance / sky)
            ivar[band] += np.float32(variance)
        if damage is None:
            np.reciprocal(ivar, out=ivar)
            return {"flux": scene, "ivar": ivar, "mask": mask, "noiseless": scene, "flags": ()}
        if shift:
            damage.flags.add("correlation")
        damage.degrade(ivar)
        # In place, unless the scene is still needed.
        kept = frame.maps or damage.saturates(scene)
        flux = np.empty_like(scene) if kept else scene
        for band in range(len(scene)):
            noise = correlated_normals(bits, scene.shape[1:], shift)
            noise *= np.sqrt(ivar[band])
            np.add(scene[band], noise, out=flux[band])
            np.reciprocal(ivar[band], out=ivar[band])
        damage.subtract_sky(flux, seen)
        damage.strike(flux, scene if kept else None, mask)
        if not mask.all():
            ivar *= mask
        flags = tuple(sorted(damage.flags))
        noiseless = scene if frame.maps else None
        return {"flux": flux, "ivar": ivar, "mask": mask, "noiseless": noiseless, "flags": flags}


def _columns(instrument: Instrument) -> list[int]:
    """Return where the bands of an instrument stand among those of the SED model."""
    from omnisky.mock.sed import BANDS

    return [BANDS.index(band) for band in instrument.sed_bands]


def _any_galaxy(source: Sources, detail: np.ndarray) -> Shape:
    """Return a plausible shape of a neighbouring galaxy."""
    d = detail[48:]
    disky = bool(source.kind[0] > 0.35)
    q = float(source.q[0]) if disky else 0.5 + 0.5 * float(source.q[0])
    re = float(source.re[0])
    values: Mapping[str, float] = {
        "pa": float(source.pa[0]),
        "re_disk": re,
        "q_disk": q,
        "inclination": float(np.degrees(np.arccos(min(max((q - 0.13) / 0.87, 0.0), 1.0)))),
        "re_bulge": re * (0.25 + 0.2 * d[0] if disky else 0.9),
        "n_bulge": 2.0 + 2.5 * d[1],
        "q_bulge": min(1.0, 0.5 + 0.5 * q) if disky else q,
        "n_arms": int(2 + 2 * d[2] ** 2) if disky else 0,
        "arm_pitch": 10 + 20 * d[3],
        "arm_contrast": 0.2 + 0.6 * d[4],
        "arm_phase": 360 * d[5],
        "winding": 1 if d[6] < 0.5 else -1,
        "flocculence": d[7],
        "bar_length": 0.6 * re if disky and d[8] < 0.3 else 0.0,
        "bar_strength": 0.2,
        "bar_angle": 180 * d[9],
        "dust_lane": 1.2 if disky else 0.0,
    }
    return Shape(detail=detail[:48], morphology=1 if disky else 0, **values)  # pyright: ignore


def _split(source: Sources, fluxes: np.ndarray) -> np.ndarray:
    """Share the light of a neighbour among bulge, disk and young light, shape (3, band)."""
    kind = float(source.kind[0])
    if kind <= 0.35:
        return np.stack([0.95 * fluxes, 0.03 * fluxes, 0.02 * fluxes])
    bulge = 0.3 * (1 - kind)
    # The bulge is redder and the young light bluer than the whole, by a fifth from one band to the
    # next, which leaves the whole as it is.
    tilt = 1.2 ** (np.arange(len(fluxes)) - 1.0)
    shares = np.stack([bulge * tilt, np.full(len(fluxes), 0.6), (0.4 - bulge) / tilt])
    return shares / shares.sum(axis=0) * fluxes
