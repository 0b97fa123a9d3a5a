"""The facts about a survey that every survey file states."""

from __future__ import annotations

from dataclasses import dataclass

from omnisky.modalities import Modality

__all__ = ["Survey"]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """State what a survey measures and how to credit it.

    Parameters
    ----------
    name : str
        Short name, the prefix of its modalities.
    title : str
        Full name with data release.
    modalities : tuple of Modality
        Its declarations.
    licence : str
        Terms of use of the data.
    acknowledgement : str
        The sentence the survey asks users to print.
    bibtex : dict of str to str
        BibTeX entry of each bibcode its modalities name.
    """

    name: str
    title: str
    modalities: tuple[Modality, ...]
    licence: str
    acknowledgement: str
    bibtex: dict[str, str]

    def __post_init__(self) -> None:
        for modality in self.modalities:
            missing = [b for b in modality.bibcodes if b not in self.bibtex]
            if modality.survey != self.name or missing:
                raise ValueError(
                    f"survey {self.name!r}: modality {modality.name!r} says survey "
                    f"{modality.survey!r} and cites {missing} without a BibTeX entry"
                )
