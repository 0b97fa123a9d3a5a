"""What of a table a pretrained model reads."""

from __future__ import annotations

import warnings

from omnisky.modalities import Observations
from omnisky.pretrained import modalities_of, pretrained_folder

__all__ = ["readable"]


def readable(observations: Observations, base: str, *, asked: bool) -> Observations:
    """Return the modalities that a model reads.

    Parameters
    ----------
    observations : Observations
        What the table has.
    base : str
        Name, folder or hub id of the model.
    asked : bool
        True if the user named the modalities: then one the model does not read is an error. Else
        it is left out with a `UserWarning`.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or it has no codecs.
    ValueError
        If nothing, or not all that was asked for, can be read.
    """
    known = modalities_of(pretrained_folder(base, part="words"))
    others = [name for name in observations if name not in known]
    if len(others) == len(observations) or (others and asked):
        raise ValueError(
            f"the model {base} does not read {', '.join(others)}; it reads {', '.join(known)}"
        )
    if others:
        warnings.warn(f"the model {base} does not read {', '.join(others)}: not used", stacklevel=2)
    return observations.drop(*others)
