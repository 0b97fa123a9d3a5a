"""What is known of imaging bands: wavelength, width, zero point, pixels, sharpness and depth.

These numbers are what `omnisky.codecs.image.metadata` makes the projections of a band from, so any
band that can be described here can be encoded and decoded. `BANDS` holds those of some surveys;
your own need no entry, see `Band`.

Wavelengths are pivot wavelengths (Tokunaga & Vacca 2005, PASP 117, 421, equation A11), widths full
widths at half maximum. Where they come from:

========================  =======================================================================
survey                    source
========================  =======================================================================
legacysurvey_image        curves of DECam, Flaugher et al. 2015, AJ 150, 150 (computed); seeing and
                          depth, Dey et al. 2019, AJ 157, 168, tables 3 and 4, between one pass and
                          the deepest parts
hsc_image                 curves of Kawanomoto et al. 2018, PASJ 70, 66 (computed); seeing and depth
                          of the Wide layer, Aihara et al. 2022, PASJ 74, 247, table 2
sdss_image                curves of Doi et al. 2010, AJ 139, 1628 (computed); 5 sigma depth and
                          seeing, sdss.org, "scope of the survey"
jwst_nircam_image         user documentation of NIRCam, tables of filters and of PSF; depth and
                          pixels of CEERS, Finkelstein et al. 2023, ApJL 946, L13, Bagley et al.
                          2023, ApJL 946, L12; mosaics in MJy/sr
euclid_image              NISP, Schirmer et al. 2022, A&A 662, A92; VIS and depth, Mellier et al.
                          2025, A&A 697, A1; mosaics of the Q1 release in microjansky
rubin_image               Ivezić et al. 2019, ApJ 873, 111, table 1; depth of ten years, Bianco et
                          al. 2022, ApJS 258, 1; images in nanojansky
========================  =======================================================================

Limits of brightness are about where pixels of the co-adds saturate; surveys without such a number
have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from omnisky.surveys import modality

__all__ = ["BANDS", "Band", "Key", "bands_of", "described", "nanomaggies", "pixel_scale"]

_SIGMA_PER_FWHM = 1 / math.sqrt(8 * math.log(2))


@dataclass(frozen=True, kw_only=True)
class Band:
    """Describe a band of a survey's images.

    Parameters
    ----------
    modality : str
        Name of the modality, for example ``"hsc_image"``; any name for a survey of your own.
    name : str
        Name of the band within it, as in ``Image.bands``.
    wavelength_nm : float
        Pivot wavelength.
    width_nm : float
        Full width at half maximum.
    pixel_scale_arcsec : float
        Side of a pixel.
    psf_fwhm_arcsec : float
        Typical full width at half maximum of the point-spread function; used where an image does
        not carry its own.
    depth_mag : float
        Typical AB magnitude of a point source at 5 sigma; sets the noise of a pixel where an
        image has no inverse variances.
    zero_point : float
        AB magnitude of one unit of the images; 22.5 for nanomaggies, which every survey that
        omnisky reads is in.
    limit : float
        Brightest pixel in the unit of the images; brighter ones are cut off before encoding.

    Raises
    ------
    ValueError
        If a number is not finite or not positive.

    Examples
    --------
    >>> ks = Band(modality="my_image", name="k", wavelength_nm=2200, width_nm=340,
    ...           pixel_scale_arcsec=0.4, psf_fwhm_arcsec=0.8, depth_mag=20.1)
    >>> round(ks.noise, 3)
    0.606
    """

    modality: str
    name: str
    wavelength_nm: float
    width_nm: float
    pixel_scale_arcsec: float
    psf_fwhm_arcsec: float
    depth_mag: float
    zero_point: float = 22.5
    limit: float = math.inf

    def __post_init__(self) -> None:
        positive = ("wavelength_nm", "width_nm", "pixel_scale_arcsec", "psf_fwhm_arcsec")
        for name in (*positive, "depth_mag", "zero_point"):
            value = getattr(self, name)
            if not math.isfinite(value) or (name in positive and value <= 0):
                raise ValueError(
                    f"band {self.name!r} of {self.modality!r}: {name} must be a "
                    f"{'positive ' if name in positive else ''}finite number; found {value!r}"
                )
        if not self.limit > 0:
            raise ValueError(
                f"band {self.name!r} of {self.modality!r}: limit must be positive; found "
                f"{self.limit!r}. Leave it out for none"
            )

    @property
    def key(self) -> tuple[str, str]:
        """Modality and name, by which tables know the band."""
        return self.modality, self.name

    @property
    def nanomaggies(self) -> float:
        """Nanomaggies in one unit of the images."""
        return 10 ** (0.4 * (22.5 - self.zero_point))

    @property
    def noise(self) -> float:
        """Typical 1 sigma noise of a pixel of blank sky, in nanomaggies.

        That of the depth, with the effective area of a Gaussian PSF, 4 pi sigma^2 pixels (King
        1983, PASP 95, 163).
        """
        sigma_pixels = _SIGMA_PER_FWHM * self.psf_fwhm_arcsec / self.pixel_scale_arcsec
        return 10 ** (0.4 * (22.5 - self.depth_mag)) / 5 / math.sqrt(4 * math.pi) / sigma_pixels


# A band by its description, or by modality and name.
Key = Band | tuple[str, str]


def _survey(
    modality: str,
    scale: float | Sequence[float],
    columns: Mapping[str, tuple[float, ...]],
    zero_point: float = 22.5,
) -> dict[tuple[str, str], Band]:
    """Return bands from rows of wavelength, width, PSF width, depth and perhaps limit."""
    scales = [scale] * len(columns) if isinstance(scale, (int, float)) else scale
    bands = [
        Band(
            modality=modality,
            name=name,
            wavelength_nm=row[0],
            width_nm=row[1],
            pixel_scale_arcsec=pixel,
            psf_fwhm_arcsec=row[2],
            depth_mag=row[3],
            zero_point=zero_point,
            limit=row[4] if len(row) > 4 else math.inf,
        )
        for (name, row), pixel in zip(columns.items(), scales, strict=True)
    ]
    return {band.key: band for band in bands}


# One MJy/sr in a pixel of 0.03 arcsec, as an AB magnitude.
_CEERS_ZERO_POINT = 8.9 - 2.5 * math.log10(1e6 * math.radians(0.03 / 3600) ** 2)

BANDS: Mapping[tuple[str, str], Band] = MappingProxyType(
    _survey(
        "legacysurvey_image",
        0.262,
        {
            "g": (482.0, 130, 1.38, 24.7, 30),
            "r": (642.3, 148, 1.25, 24.1, 30),
            "i": (780.7, 148, 1.20, 23.6, 30),
            "z": (915.8, 148, 1.17, 23.2, 40),
        },
    )
    | _survey(
        "hsc_image",
        0.168,
        {
            "g": (479.1, 138, 0.77, 26.5, 20),
            "r": (621.4, 150, 0.75, 26.1, 20),
            "i": (768.9, 152, 0.60, 25.9, 20),
            "z": (890.3, 77, 0.68, 25.1, 20),
            "y": (977.2, 74, 0.68, 24.4, 20),
        },
    )
    | _survey(
        "sdss_image",
        0.396,
        {
            "u": (359.2, 52, 1.50, 22.15),
            "g": (470.1, 126, 1.44, 23.13),
            "r": (617.7, 115, 1.32, 22.70),
            "i": (749.7, 127, 1.26, 22.20),
            "z": (890.4, 100, 1.29, 20.71),
        },
    )
    | _survey(
        "jwst_nircam_image",
        0.03,
        {
            "f115w": (1154, 225, 0.040, 29.2),
            "f150w": (1501, 318, 0.050, 29.0),
            "f200w": (1990, 461, 0.066, 29.2),
            "f277w": (2786, 672, 0.092, 29.2),
            "f356w": (3563, 787, 0.116, 29.0),
            "f410m": (4092, 436, 0.137, 28.4),
            "f444w": (4421, 1024, 0.145, 28.6),
        },
        _CEERS_ZERO_POINT,
    )
    | _survey(
        "euclid_image",
        0.1,
        {
            "vis": (715.0, 360, 0.16, 26.2),
            "y": (1080.9, 263, 0.48, 24.3),
            "j": (1367.3, 399, 0.49, 24.5),
            "h": (1771.4, 500, 0.50, 24.4),
        },
        23.9,
    )
    | _survey(
        "rubin_image",
        0.2,
        {
            "u": (367.1, 73, 0.92, 26.1),
            "g": (482.7, 150, 0.87, 27.4),
            "r": (622.3, 139, 0.83, 27.5),
            "i": (754.6, 127, 0.80, 26.8),
            "z": (869.1, 106, 0.78, 26.1),
            "y": (971.2, 110, 0.76, 24.9),
        },
        31.4,
    )
)


def bands_of(modality: str) -> tuple[Band, ...]:
    """Return the bands of a modality that are in `BANDS`, in order of wavelength; () for others."""
    return tuple(band for band in BANDS.values() if band.modality == modality)


def described(band: Key) -> Band | None:
    """Return the description of a band, or None if it is a name that `BANDS` does not have."""
    return band if isinstance(band, Band) else BANDS.get(band)


def nanomaggies(bands: Sequence[Key]) -> np.ndarray:
    """Return how many nanomaggies a unit of each band's images is, shape (band, 1, 1).

    Bands that are only named are those of omnisky's surveys, which are in nanomaggies.
    """
    factors = [band.nanomaggies if isinstance(band, Band) else 1.0 for band in bands]
    return np.array(factors, dtype=np.float32)[:, None, None]


def pixel_scale(bands: Sequence[Key]) -> float:
    """Return the side of a pixel in arcsec.

    Raises
    ------
    ValueError
        If it is not the same in all bands.
    """
    scales = {
        band.pixel_scale_arcsec if isinstance(band, Band) else modality(band[0]).pixel_scale_arcsec
        for band in bands
    }
    if len(scales) != 1:
        raise ValueError(
            "bands to decode must have the pixels that were encoded; found scales of "
            f"{sorted(scales, key=str)} arcsec. Give bands of one scale"
        )
    (scale,) = scales
    assert scale is not None  # every declared image has one
    return scale
