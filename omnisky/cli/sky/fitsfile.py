"""Cut-outs as one FITS file, for programs that know nothing of sky stores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from omnisky.data.positions import Places
from omnisky.modalities import SkyObjects

__all__ = ["write_fits"]


def write_fits(parts: Sequence[SkyObjects], places: Places, out: Path) -> int:
    """Write cut-outs as one FITS file, whole or not at all, in the order of the positions.

    Parameters
    ----------
    parts : sequence of SkyObjects
        Cut-outs of the same size and bands.
    places : Places
        The positions.
    out : Path
        The file: images FLUX, IVAR and MASK of shape (object, band, y, x), and the table OBJECTS.

    Returns
    -------
    int
        How many there are.
    """
    images: list[Any] = [next(iter(part.observations.values())) for part in parts]
    ids = np.concatenate([part.object_id for part in parts])
    place = {who: number for number, who in enumerate(places.object_id.tolist())}
    order = np.argsort([place[who] for who in ids.tolist()])

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(arrays)[order]

    header = fits.Header()
    header["BUNIT"] = ("nmgy", "nanomaggies a pixel, AB zero point 22.5")
    header["BANDS"] = (",".join(images[0].bands), "along axis 3")
    header["PIXSCALE"] = (images[0].pixel_scale_arcsec, "[arcsec] side of a pixel")
    flux, ivar = (joined([getattr(i, n) for i in images]) for n in ("flux", "ivar"))
    mask = joined([i.mask for i in images]).astype(np.uint8)
    offsets = joined([i.offset_pixels for i in images])
    columns = [
        _column("object_id", ids[order]),
        _column("ra", joined([p.ra_deg for p in parts]), "deg"),
        _column("dec", joined([p.dec_deg for p in parts]), "deg"),
        _column("offset_x", offsets[:, 0], "pix"),
        _column("offset_y", offsets[:, 1], "pix"),
        _column("psf_fwhm", joined([i.psf_fwhm_arcsec for i in images]), "arcsec"),
    ]
    inverse = header.copy()
    inverse["BUNIT"] = "nmgy-2"
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(flux, header, name="FLUX"),
            fits.ImageHDU(ivar, inverse, name="IVAR"),
            fits.ImageHDU(mask, name="MASK"),
            fits.BinTableHDU.from_columns(columns, name="OBJECTS"),
        ]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as folder:
        written = Path(folder, out.name)
        hdus.writeto(written)
        os.replace(written, out)
    return len(ids)


def _column(name: str, values: np.ndarray, unit: str | None = None) -> fits.Column:
    kinds = {"f8": "D", "f4": "E", "i8": "K"}
    width = values.shape[1] if values.ndim > 1 else ""
    if values.dtype.kind == "U":
        values = np.char.encode(values, "ascii")
        return fits.Column(name, f"{values.dtype.itemsize}A", array=values)
    kind = kinds[values.dtype.str[1:]]
    return fits.Column(name, f"{width}{kind}", unit=unit, array=values)
