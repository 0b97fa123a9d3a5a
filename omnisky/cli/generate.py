"""From some measurements to samples of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter, validators

from omnisky.cli.models import readable
from omnisky.cli.tables import (
    Input,
    Reading,
    check_output,
    drop_empty,
    masked_rows,
    names_in,
    result_table,
    save,
    slices,
)
from omnisky.pretrained import pinned

if TYPE_CHECKING:
    from omnisky.modalities import Observations
    from omnisky.model import Model

__all__ = ["Drawing", "generate"]

_READ = Reading()
# The central 90 %, as predict gives by default.
_QUANTILES = (0.05, 0.95)
_COLUMNS = {
    "": "Mean of samples: ",
    "_std": "Standard deviation of samples: ",
    "_low": "5 % quantile of samples: ",
    "_high": "95 % quantile of samples: ",
}
# Objects sampled between two movements of the bar.
_SOME = 64
_AtLeastTwo = Annotated[int, Parameter(validator=validators.Number(gte=2))]


@Parameter(name="*", group="How to sample")
@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Say how to sample.

    Parameters
    ----------
    method : {"roar", "maskgit", "autoregressive"}
        Tokens in random order (numbers first), the most confident of all first, or one by one.
    steps : int, optional
        Decoder steps of a modality of many tokens, 12 by default.
    temperature : float
        Less than 1 concentrates the samples, 0 takes the most probable.
    top_k : int, optional
        Draw from this many most probable ids only.
    top_p : float, optional
        Draw from the most probable ids that together reach this probability only.
    guidance : str
        How far to go beyond what is given: a number, or weights as gaia_g=1.5,gaia_xp=0.5.
    context : {"fresh", "append"}
        Read everything anew after each step, or only what was drawn: faster, approximate.
    """

    method: Literal["roar", "maskgit", "autoregressive"] = "roar"
    steps: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: str = "0"
    context: Literal["fresh", "append"] = "fresh"

    def options(self) -> dict[str, Any]:
        """Return options of `Model.generate`; raises `ValueError` for guidance of another form."""
        return {**vars(self), "guidance": _strength(self.guidance)}


_DRAW = Drawing()


def generate(
    table: str,
    /,
    *,
    target: str,
    out: Path,
    given: str | None = None,
    samples: _AtLeastTwo = 64,
    seed: int = 0,
    base: str = "nano",
    drawing: Drawing = _DRAW,
    reading: Reading = _READ,
    overwrite: bool = False,
) -> None:
    """Sample one measurement given others.

    Writes, for a number, the mean, standard deviation and the 5 % and 95 % quantiles of the samples
    as ``<target>``, ``<target>_std``, ``<target>_low`` and ``<target>_high``; for a spectrum the
    mean and the standard deviation of each pixel.

    Parameters
    ----------
    table : str
        Table file or data set.
    target : str
        Modality to sample, or several separated by commas.
    out : Path
        File to write; its ending says the format. CSV cannot hold spectra.
    given : str, optional
        Modalities to start from, separated by commas (photometry and xp are families); all that the
        table has, but labels and the target, by default.
    samples : int
        Samples an object.
    seed : int
        Fixes the samples.
    base : str
        Pretrained model: a name, a folder, or a hub id as organisation/name@revision.
    drawing : Drawing
        How to sample.
    reading : Reading
        How to read the table.
    overwrite : bool
        Replace an existing file.
    """
    from omnisky.data.usertable import describe_column
    from omnisky.model import Model
    from omnisky.surveys import modality

    check_output(out, overwrite)
    how = {**drawing.options(), "n_samples": samples}
    targets = [modality(name).name for name in names_in(target) or []]
    held = ("scalar", "spectrum")
    if strange := [name for name in targets if modality(name).kind not in held]:
        raise ValueError(
            f"no table holds {', '.join(strange)}; sample them in Python with Model.generate"
        )
    vectors = [name for name in targets if modality(name).kind != "scalar"]
    if vectors and out.suffix.lower() == ".csv":
        raise ValueError(
            f"--out {out}: CSV cannot hold {', '.join(vectors)}; use .parquet or .fits"
        )
    source = Input.read(table, reading, names_in(given))
    both = [name for name in targets if name in source.observations]
    if both and given is not None:
        raise ValueError(f"{', '.join(both)} cannot be both given and target; leave it out of one")
    if not set(source.observations) - set(both):
        raise ValueError(
            f"nothing is given but the target {', '.join(both)}; name others in --given"
        )
    observations = source.observations.drop(*both)
    base = pinned(base)
    known, rows = drop_empty(readable(observations, base, asked=given is not None))
    parts = _sampled(Model.from_pretrained(base), known, targets, {**how, "seed": seed})
    result = result_table(source)
    for name, suffix in parts[0]:
        values = np.concatenate([part[name, suffix] for part in parts])
        column = describe_column(masked_rows(values, rows), modality(name))
        column.description = f"{_COLUMNS[suffix]}{column.description}"
        result[f"{name}{suffix}"] = column
    save(result, out, overwrite)


def _sampled(
    model: Model, known: Observations, targets: list[str], how: dict[str, Any]
) -> list[dict[tuple[str, str], np.ndarray]]:
    """Return summaries of samples, some objects at a time."""
    from omnisky.model.generation import Reading as Objects

    parts = []
    for some in slices(len(known), "Samples", _SOME):
        # Numbered through, so that the draws are those of the whole table at once.
        objects = Objects(model, model.as_tokens(known[some]), keep=False, first=some.start)
        parts.append(_summary(objects.generate(targets, **how), targets))
    return parts


def _strength(text: str) -> float | dict[str, float]:
    """Return guidance as a number, or as weights by modality."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [item.partition("=") for item in text.split(",")]
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError:
        raise ValueError(
            f"--guidance {text}: give a number, or weights as gaia_g=1.5,gaia_xp=0.5"
        ) from None


def _summary(generation: Any, targets: list[str]) -> dict[tuple[str, str], np.ndarray]:
    """Return the columns of some objects, by target and suffix."""
    found = {}
    for name in targets:
        sampled = generation[name]
        found[name, ""] = sampled.mean
        if np.ndim(sampled.mean) == 2:  # a spectrum
            found[name, "_std"] = sampled.samples.std(axis=0)
        else:
            found[name, "_std"] = sampled.std
            found[name, "_low"], found[name, "_high"] = map(sampled.quantile, _QUANTILES)
    return found
