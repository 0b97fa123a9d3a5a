"""Objects of one survey in the form its files have, and from there to typed objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from omnisky.mock.images import ImageModel
    from omnisky.mock.population import UniverseConfig
    from omnisky.mock.spectra import DesiModel, SdssModel, XpModel
    from omnisky.modalities import SkyObjects

__all__ = ["Instruments", "Rows", "local_number", "no_images"]

# Numbers of objects stay below 2^40; those of spurious rows and of fragments start there (see
# `omnisky.mock.population.catalogs`).
_KIND_BITS = 40
# Objects whose spectra are blank are made typed so many at a time.
_BLANK = 512


class Instruments:
    """Keep the models of all instruments of a universe, each made when it is first used.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    size : int
        Side of the stamps in pixels.
    """

    def __init__(self, config: UniverseConfig, size: int) -> None:
        self.config, self.size = config, size
        self._images: dict[str, ImageModel] = {}

    def images(self, instrument: str) -> ImageModel:
        """Return the model of an imaging survey, by its name."""
        if instrument not in self._images:
            from omnisky.mock.images import ImageModel

            self._images[instrument] = ImageModel(self.config, instrument)
        return self._images[instrument]

    @cached_property
    def desi(self) -> DesiModel:
        """The model of DESI-like spectra."""
        from omnisky.mock.spectra import DesiModel

        return DesiModel(self.config)

    @cached_property
    def sdss(self) -> SdssModel:
        """The model of SDSS-like spectra."""
        from omnisky.mock.spectra import SdssModel

        return SdssModel(self.config)

    @cached_property
    def xp(self) -> XpModel:
        """The model of Gaia's low-resolution spectra."""
        from omnisky.mock.spectra import XpModel

        return XpModel(self.config)


def no_images(count: int) -> None:
    """Return what stands beside a catalogue without its images: nothing."""


def local_number(object_id: np.ndarray, bits: int) -> np.ndarray:
    """Return numbers that fit into some bits, apart for objects, spurious rows and fragments.

    Parameters
    ----------
    object_id : array of int, shape (object,)
        Numbers in the universe.
    bits : int
        Bits that there are. Beyond 2^(bits - 2) objects numbers repeat.
    """
    number = np.asarray(object_id).astype(np.int64)
    kind = np.minimum(number >> _KIND_BITS, 3)
    return kind << (bits - 2) | number & ((1 << (bits - 2)) - 1)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Hold rows of one survey in its native form.

    Parameters
    ----------
    survey : str
        The survey.
    number : array of int, shape (object,)
        Number in the universe; from 2^40 on for rows that stand for nothing.
    columns : mapping of str to array, shape (object, ...)
        Columns of the survey's table, of native types.
    piece : array of int, shape (object,)
        Which file each row is in: brick, patch, petal, plate or part.
    heavy : Stamps, Spectra or XpRows, optional
        What stands beside the table.
    make : callable
        Takes columns and `heavy`, returns typed objects.
    blank : callable
        Takes a number of objects, returns `heavy` that holds nothing; or None.
    """

    survey: str
    number: np.ndarray
    columns: Mapping[str, np.ndarray]
    piece: np.ndarray
    heavy: Any
    make: Callable[[Mapping[str, np.ndarray], Any], SkyObjects]
    blank: Callable[[int], Any]

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, index) -> Rows:
        """Return some rows: by a slice, integers or a boolean array."""
        return replace(
            self,
            number=self.number[index],
            columns={name: values[index] for name, values in self.columns.items()},
            piece=self.piece[index],
            heavy=None if self.heavy is None else self.heavy[index],
        )

    def plus(self, other: Rows) -> Rows:
        """Return these rows and others of the same survey after them."""
        return replace(
            self,
            number=np.concatenate([self.number, other.number]),
            columns={k: np.concatenate([v, other.columns[k]]) for k, v in self.columns.items()},
            piece=np.concatenate([self.piece, other.piece]),
            heavy=None if self.heavy is None else self.heavy.plus(other.heavy),
        )

    def objects(self) -> SkyObjects:
        """Return them as typed objects, as the survey's reader does."""
        if self.heavy is not None:
            return self.make(self.columns, self.heavy)
        if self.blank(1) is None:
            return self.make(self.columns, None)
        from omnisky.modalities import Scalar

        parts = []
        for start in range(0, max(len(self), 1), _BLANK):
            some = self[start : start + _BLANK]
            found = self.make(some.columns, self.blank(len(some)))
            scalars = [n for n, m in found.observations.items() if isinstance(m, Scalar)]
            parts.append(replace(found, observations=found.observations.select(*scalars)))
        return joined(parts)


def joined(parts: list[SkyObjects]) -> SkyObjects:
    """Return objects that have scalars alone, one after the other."""
    from omnisky.modalities import Observations, Scalar

    if len(parts) == 1:
        return parts[0]

    def scalar(some: list[Any]) -> Any:
        if some[0] is None:
            return None
        arrays = ([getattr(s, part) for s in some] for part in ("value", "ivar", "mask"))
        return Scalar(*(np.concatenate(array) for array in arrays))

    names = list(parts[0].observations)
    return replace(
        parts[0],
        object_id=np.concatenate([p.object_id for p in parts]),
        ra_deg=np.concatenate([p.ra_deg for p in parts]),
        dec_deg=np.concatenate([p.dec_deg for p in parts]),
        observations=Observations(
            {name: scalar([p.observations[name] for p in parts]) for name in names}
        ),
        **{k: scalar([getattr(p, k) for p in parts]) for k in ("epoch", "pm_ra", "pm_dec")},
    )
