"""Where does a measurement come from? One file a survey, one declaration a modality.

A survey with native files also has a ``read`` in its module, for example
:func:`omnisky.surveys.desi.read`: a generator of :class:`~omnisky.modalities.SkyObjects`. Files
come in through the doors :mod:`omnisky.surveys.fits` and :mod:`omnisky.surveys.text`.

A survey outside this package joins through the entry-point group ``omnisky.surveys``: each entry
names a :class:`Survey`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from omnisky.modalities import Modality, UnknownModalityError
from omnisky.surveys.apogee import APOGEE
from omnisky.surveys.desi import DESI
from omnisky.surveys.gaia import GAIA
from omnisky.surveys.hsc import HSC
from omnisky.surveys.lamost import LAMOST
from omnisky.surveys.legacysurvey import LEGACYSURVEY
from omnisky.surveys.sdss import SDSS
from omnisky.surveys.survey import Problem, Problems, Selection, Survey
from omnisky.surveys.twomass import TWOMASS

__all__ = [
    "APOGEE",
    "DESI",
    "GAIA",
    "HSC",
    "LAMOST",
    "LEGACYSURVEY",
    "SDSS",
    "TWOMASS",
    "Problem",
    "Problems",
    "Selection",
    "Survey",
    "modalities",
    "modality",
    "surveys",
]

# The order in which a column's name is looked up: a table's `teff` is APOGEE's first.
_KNOWN = (GAIA, TWOMASS, APOGEE, SDSS, DESI, LAMOST, LEGACYSURVEY, HSC)


@cache
def surveys() -> dict[str, Survey]:
    """Return all known surveys by name, those of installed plug-ins included."""
    plugins = [entry.load() for entry in entry_points(group="omnisky.surveys")]
    return {survey.name: survey for survey in (*_KNOWN, *plugins)}


@cache
def modalities() -> dict[str, Modality]:
    """Return all declared modalities by name; raises `ValueError` if two share a name."""
    found: dict[str, Modality] = {}
    for survey in surveys().values():
        for declared in survey.modalities:
            if declared.name in found:
                raise ValueError(f"modality {declared.name!r} is declared twice")
            found[declared.name] = declared
    return found


def modality(name: str) -> Modality:
    """Return the declaration of one modality.

    Raises
    ------
    UnknownModalityError
        If no survey declares it; the message lists those that are.
    """
    if name not in modalities():
        raise UnknownModalityError(
            f"unknown modality {name!r}; declared are {', '.join(modalities())}. "
            "A new one is declared in its survey's file, see docs/how-to"
        )
    return modalities()[name]
