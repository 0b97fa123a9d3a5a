"""Where does a measurement come from? One file a survey, one declaration a modality.

A survey outside this package joins through the entry-point group ``omnisky.surveys``: each entry
names a :class:`Survey`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from omnisky.modalities import Modality, UnknownModalityError
from omnisky.surveys.apogee import APOGEE
from omnisky.surveys.gaia import GAIA
from omnisky.surveys.survey import Survey
from omnisky.surveys.twomass import TWOMASS

__all__ = ["APOGEE", "GAIA", "TWOMASS", "Survey", "modalities", "modality", "surveys"]


@cache
def surveys() -> dict[str, Survey]:
    """Return all known surveys by name, those of installed plug-ins included."""
    plugins = [entry.load() for entry in entry_points(group="omnisky.surveys")]
    return {survey.name: survey for survey in (GAIA, TWOMASS, APOGEE, *plugins)}


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
