"""Several modalities of the same objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, overload

from omnisky.modalities.declaration import UnknownModalityError
from omnisky.modalities.measurements import Coefficients, Image, Measurement, Scalar, Spectrum
from omnisky.modalities.surroundings import Catalog, SegmentationMap

__all__ = ["Observations", "refuse_other"]

_KINDS = (Scalar, Spectrum, Image, Coefficients, Catalog, SegmentationMap)


class Observations(Mapping[str, Measurement]):
    """Hold several modalities of the same objects; any object may miss any of them.

    A read-only mapping from modality name to measurement. Indexing with a name gives the
    measurement; indexing with integers, a slice or a boolean array gives the same modalities of
    these objects, so that scikit-learn's splitters work on it.

    Parameters
    ----------
    measurements : mapping of str to Measurement
        Scalar, Spectrum, Image, Coefficients, Catalog or SegmentationMap by modality name, all of
        the same length.

    Raises
    ------
    ValueError
        If it is empty or the lengths disagree.
    """

    def __init__(self, measurements: Mapping[str, Measurement]) -> None:
        if not measurements:
            raise ValueError("Observations need at least one modality; found none")
        for name, measurement in measurements.items():
            if not isinstance(measurement, _KINDS):
                raise TypeError(
                    f"modality {name!r}: expected one of "
                    f"{', '.join(k.__name__ for k in _KINDS)}; found {type(measurement).__name__}"
                )
        lengths = {name: len(m) for name, m in measurements.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all modalities need one row an object; found lengths {lengths}")
        self._measurements = dict(measurements)
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return iter(self._measurements)

    # Any, since the caller knows whether it asks for a scalar or a spectrum.
    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: Any) -> Observations: ...
    def __getitem__(self, key):
        if isinstance(key, str):
            if key not in self._measurements:
                raise UnknownModalityError(
                    f"no modality {key!r} here; these objects have {', '.join(self)}"
                )
            return self._measurements[key]
        if isinstance(key, tuple):
            if len(key) != 2 or key[1] is not Ellipsis:
                raise TypeError(
                    "Observations have one axis (objects); use select(...) for modalities"
                )
            key = key[0]  # scikit-learn takes rows as array[rows, ...]
        return Observations({name: m[key] for name, m in self._measurements.items()})

    def __contains__(self, key: object) -> bool:
        return key in self._measurements

    def keys(self):
        """Return the modality names."""
        return self._measurements.keys()

    def items(self):
        """Return (name, measurement) pairs."""
        return self._measurements.items()

    def values(self):
        """Return the measurements."""
        return self._measurements.values()

    def __repr__(self) -> str:
        parts = ", ".join(f"{k} {int(m.present.sum())}" for k, m in self._measurements.items())
        return f"Observations({len(self)} objects; present: {parts})"

    @property
    def shape(self) -> tuple[int, int]:
        """(objects, modalities); lets scikit-learn index it like an array."""
        return len(self), len(self._measurements)

    def select(self, *names: str) -> Observations:
        """Return the same objects with only these modalities."""
        return Observations({name: self[name] for name in names})

    def drop(self, *names: str) -> Observations:
        """Return the same objects without these modalities; each must be there."""
        for name in names:
            self[name]
        return Observations({k: m for k, m in self._measurements.items() if k not in names})


def refuse_other(found: object, where: str, allowed: str = "Observations") -> NoReturn:
    """Raise `TypeError`: say what was given in place of observations, and how to get there.

    Parameters
    ----------
    found : object
        What was given.
    where : str
        The door it was given at.
    allowed : str
        What may be given there.
    """
    # By attribute: neither tables nor data sets are known here.
    if isinstance(found, _KINDS):
        remedy = "name its modality: Observations({'gaia_g': scalar})"
    elif hasattr(found, "observations"):
        remedy = f"a {type(found).__name__} has .observations"
    elif isinstance(found, Mapping):
        remedy = "Observations(mapping) makes them of measurements by modality name"
    elif hasattr(found, "colnames"):
        remedy = "omnisky.observations_from_table(table) reads them"
    elif hasattr(found, "columns"):
        remedy = "omnisky.observations_from_table(Table.from_pandas(frame)) reads them"
    else:
        remedy = (
            "make them of measurements by modality name, Observations({'gaia_g': Scalar(values)}), "
            "or of a file, omnisky.observations_from_table(omnisky.read_table(path))"
        )
    raise TypeError(f"{where} takes {allowed}; found {type(found).__name__}: {remedy}")
