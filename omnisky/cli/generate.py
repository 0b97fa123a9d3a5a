"""From some measurements to samples of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter, validators

from omnisky.cli.models import readable
from omnisky.cli.recalibration import Recalibration, read_known, without_targets
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
    from astropy.table import Table

    from omnisky.modalities import Observations
    from omnisky.model import Model

__all__ = ["Drawing", "generate"]

_READ = Reading()
# The median, and the central 90 %, as predict gives by default.
_QUANTILES = {"_median": 0.5, "_low": 0.05, "_high": 0.95}
_COLUMNS = {
    "": "Mean of samples: ",
    "_std": "Standard deviation of samples: ",
    "_median": "Median of samples: ",
    "_low": "5 % quantile of samples: ",
    "_high": "95 % quantile of samples: ",
    "_draws": "Each sample: ",
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
    calibrate_on: str | None = None,
    draws: bool = False,
    base: str = "nano",
    device: str | None = None,
    drawing: Drawing = _DRAW,
    reading: Reading = _READ,
    overwrite: bool = False,
) -> None:
    """Sample one measurement given others.

    Writes, for a number, the mean, standard deviation, median and the 5 % and 95 % quantiles of the
    samples as ``<target>``, ``<target>_std``, ``<target>_median``, ``<target>_low`` and
    ``<target>_high``; for a spectrum the mean and the standard deviation of each pixel.

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
    calibrate_on : str, optional
        Table file or data set of at least 50 objects like these that has the targets, too: numbers
        are recalibrated, so that their quantiles hold the truth as often as they say. Each object
        by those that have all it has, shown without the rest. Take objects that the model was not
        trained on, such as gaia-apogee:calibration, and prefer the median to the mean, which tails
        pull at. --column holds for both tables; one of a target is looked for here alone.
    draws : bool
        Write the samples themselves, too, as a vector ``<target>_draws`` (of a spectrum, one vector
        of pixels a sample); sample 5 of one target belongs to sample 5 of the next. Not in CSV.
    base : str
        Pretrained model: a name, a folder, or a hub id as organisation/name@revision.
    device : str, optional
        Where to compute: cpu, cuda or cuda:1; by default on a CUDA device where there is one.
    drawing : Drawing
        How to sample.
    reading : Reading
        How to read the table.
    overwrite : bool
        Replace an existing file.
    """
    from omnisky.model import Model

    check_output(out, overwrite)
    how = {**drawing.options(), "n_samples": samples}
    targets = _targets(target, out, numbers_alone=calibrate_on is not None, draws=draws)
    mine = reading
    if calibrate_on is not None:
        mine = without_targets(reading, targets, is_table=Path(table).is_file())
    source = Input.read(table, mine, names_in(given))
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
    others = None
    if calibrate_on is not None:
        others = read_known(calibrate_on, reading, known, targets)
    model = Model.from_pretrained(base).to(device)
    draw = partial(_drawn, model, targets, {**how, "seed": seed})
    mend = None if others is None else Recalibration.learn(others, targets, draw).mend
    parts = []
    for some, drawn in draw(known):
        found = {name: _mended(drawn[name], name, some, mend) for name in targets}
        parts.append(_columns(found, draws=draws))
    save(_with_columns(result_table(source), parts, rows), out, overwrite)
    if mend is None:
        _tell_uncalibrated(targets)


def _tell_uncalibrated(targets: list[str]) -> None:
    """Say of labels that nobody checked how often their intervals hold the truth."""
    from omnisky.surveys import modality

    labels = [name for name in targets if modality(name).role == "label"]
    if labels := [name for name in labels if modality(name).kind == "scalar"]:
        print(
            f"The intervals of {', '.join(labels)} are the model's own, not calibrated, and may be "
            "too narrow. --calibrate-on, given objects whose values are known, mends them"
        )


def _targets(target: str, out: Path, *, numbers_alone: bool, draws: bool) -> list[str]:
    """Return the modalities to sample, which a table of this kind can hold."""
    from omnisky.surveys import modality

    targets = [modality(name).name for name in names_in(target) or []]
    held = ("scalar", "spectrum")
    if strange := [name for name in targets if modality(name).kind not in held]:
        raise ValueError(
            f"no table holds {', '.join(strange)}; sample them in Python with Model.generate"
        )
    vectors = [name for name in targets if modality(name).kind != "scalar"]
    if vectors and numbers_alone:
        raise ValueError(
            f"--calibrate-on is for numbers; {', '.join(vectors)} is none. Generate it by itself"
        )
    # VOTables swap the axes of columns that have two.
    if draws and vectors and out.suffix.lower() in (".vot", ".xml"):
        raise ValueError(
            f"--out {out}: VOTable cannot hold the draws of {', '.join(vectors)}; use .parquet or "
            ".fits"
        )
    vectors = [f"{name}_draws" for name in targets] if draws else vectors
    if vectors and out.suffix.lower() == ".csv":
        raise ValueError(
            f"--out {out}: CSV cannot hold {', '.join(vectors)}; use .parquet or .fits"
        )
    return targets


def _drawn(
    model: Model, targets: list[str], how: dict[str, Any], known: Observations
) -> Iterator[tuple[slice, Any]]:
    """Yield some objects at a time, and what is generated of them."""
    from omnisky.model.generation import Reading as Objects

    for some in slices(len(known), "Samples", _SOME):
        # Numbered through, so that the draws are those of the whole table at once.
        objects = Objects(model, model.as_tokens(known[some]), keep=False, first=some.start)
        yield some, objects.generate(targets, **how)


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


def _mended(sampled: Any, name: str, some: slice, mend: Callable[..., Any] | None) -> Any:
    return sampled if mend is None else mend(name, sampled, some)


def _columns(found: dict[str, Any], *, draws: bool) -> dict[tuple[str, str], np.ndarray]:
    """Return the columns of some objects, by target and suffix."""
    columns = {}
    for name, sampled in found.items():
        columns[name, ""] = sampled.mean
        if np.ndim(sampled.mean) == 2:  # a spectrum
            columns[name, "_std"] = sampled.samples.std(axis=0)
        else:
            columns[name, "_std"] = sampled.std
            quantiles = sampled.quantile(list(_QUANTILES.values()))
            columns |= {(name, suffix): q for suffix, q in zip(_QUANTILES, quantiles, strict=True)}
        if draws:
            # By far the most numbers, and no better than what a bin or a pixel stands for.
            columns[name, "_draws"] = np.swapaxes(sampled.samples, 0, 1).astype(np.float32)
    return columns


def _with_columns(
    result: Table, parts: list[dict[tuple[str, str], np.ndarray]], rows: np.ndarray
) -> Table:
    """Add what was found of some objects after the other to a table of all objects."""
    from omnisky.data.usertable import describe_column
    from omnisky.surveys import modality

    for name, suffix in parts[0]:
        values = np.concatenate([part[name, suffix] for part in parts])
        dtype = np.float32 if suffix == "_draws" else np.float64
        column = describe_column(masked_rows(values, rows, dtype), modality(name))
        column.description = f"{_COLUMNS[suffix]}{column.description}"
        result[f"{name}{suffix}"] = column
    return result
