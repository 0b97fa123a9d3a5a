"""Cut-outs that came as files of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from omnisky.modalities import Image, Observations, SkyObjects
from omnisky.surveys.survey import in_batches

__all__ = ["Stamp", "objects_of"]


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Hold one cut-out that came as a file of its own, with the object in its centre.

    Parameters
    ----------
    name : str
        Identifier of the object.
    ra_deg, dec_deg : float
        Position of the centre.
    flux, ivar, mask : array, shape (band, y, x)
        As in `Image`.
    bands : tuple of str
        Names of the bands.
    pixel_scale_arcsec : float
        Side of a pixel.
    psf_fwhm_arcsec : array, shape (band,)
        Widths of the point-spread function; zero where unknown.
    """

    name: str
    ra_deg: float
    dec_deg: float
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    bands: tuple[str, ...]
    pixel_scale_arcsec: float
    psf_fwhm_arcsec: np.ndarray

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two of them must share to stand in one `Image`."""
        return self.flux.shape, self.bands, round(self.pixel_scale_arcsec, 6)


def objects_of(stamps: Iterable[Stamp], survey: str, batch_size: int) -> Iterator[SkyObjects]:
    """Yield cut-outs in batches, in order; a batch ends where their size, bands or scale change.

    Parameters
    ----------
    stamps : iterable of Stamp
        The cut-outs.
    survey : str
        Name of the survey; the image is called ``<survey>_image``.
    batch_size : int
        Objects a batch, at most.
    """
    for _, run in groupby(stamps, key=lambda stamp: stamp.kind):
        for batch in in_batches(run, batch_size):
            image = Image(
                np.stack([s.flux for s in batch]),
                np.stack([s.ivar for s in batch]),
                np.stack([s.mask for s in batch]),
                batch[0].bands,
                batch[0].pixel_scale_arcsec,
                np.stack([s.psf_fwhm_arcsec for s in batch]),
            )
            yield SkyObjects(
                survey=survey,
                object_id=np.array([s.name for s in batch]),
                ra_deg=np.array([s.ra_deg for s in batch]),
                dec_deg=np.array([s.dec_deg for s in batch]),
                observations=Observations({f"{survey}_image": image}),
            )
