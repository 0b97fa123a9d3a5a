"""Adapt a pretrained model to a table, and use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter, validators

from omnisky.cli.classes import add_classes, class_target, refuse_text
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
from omnisky.storage import check_replaceable

if TYPE_CHECKING:
    from astropy.table import Column, Table

__all__ = ["describe_targets", "fit", "predict"]

_READ = Reading()
_TARGETS = "targets.json"
_COVERAGE = 0.9
_Probability = Annotated[float, Parameter(validator=validators.Number(gt=0, lt=1))]


def fit(
    table: str,
    /,
    *,
    targets: str,
    out: Path,
    inputs: str | None = None,
    task: Literal["regression", "classification"] = "regression",
    adaptation: Literal["linear", "attentive", "full"] = "attentive",
    base: str = "nano",
    seed: int = 0,
    device: str | None = None,
    reading: Reading = _READ,
    overwrite: bool = False,
) -> None:
    """Adapt a pretrained model to known values of a table.

    Of a whole data set, the train part is fitted and the calibration part sets the intervals; the
    test part is not touched.

    Parameters
    ----------
    table : str
        Table file (of measurements, or of tokens that the model made) or data set.
    targets : str
        What to learn, separated by commas: columns of the table, or modalities. Unknown values are
        masked or NaN.
    out : Path
        Folder of the model.
    inputs : str, optional
        Modalities to learn from, separated by commas (photometry and xp are families); all that
        the table has, but labels, by default.
    task : str
        Learn numbers, or the classes of one column: text, whole numbers or true and false.
    adaptation : str
        A linear probe, attentive heads on the frozen model, or training the whole model.
    base : str
        Pretrained model: a name, a folder, or a hub id as organisation/name@revision. The folder
        of the fit keeps name and commit.
    seed : int
        Fixes folds and initial weights.
    device : str, optional
        Where to compute: cpu, cuda or cuda:1; by default on a CUDA device where there is one.
    reading : Reading
        How to read the table.
    overwrite : bool
        Replace an existing model.
    """
    from omnisky.adapt import FineTunedModel
    from omnisky.adapt.storage import save as save_model
    from omnisky.model import Model

    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another --out or add --overwrite")
    check_replaceable(out, overwrite)
    source = Input.read(table, reading, names_in(inputs), base=base)
    names = names_in(targets) or []
    y, known, columns = _labels(source, names, task)
    base = pinned(base)  # predict loads the same commit
    observations = readable(source.observations, base, asked=inputs is not None)
    _refuse_targets_as_inputs(names, list(observations), source)
    x, rows = drop_empty(observations[known])
    y = y[known][rows]
    part = np.full(len(known), "train") if source.dataset is None else source.dataset.split
    part = part[known][rows]
    train, held = part == "train", part == "calibration"
    if not train.any():
        train, held = ~train, np.zeros_like(held)  # a part of a data set was named
    on = Model.from_pretrained(base).to(device)
    model = FineTunedModel(on, adaptation, task, random_state=seed, verbose=True)
    model.fit(x[train], y[train])
    if held.any():
        model.calibrate(x[held], y[held], blend=0.2)
    save_model(model, out, overwrite=overwrite, extra=describe_targets(columns))
    print(
        f"{out}: {', '.join(names)} from {', '.join(x)}; {adaptation} on {train.sum()} objects of "
        f"{source.name}, {held.sum() or 'none'} for calibration"
    )


def _labels(
    source: Input, names: list[str], task: str
) -> tuple[np.ndarray, np.ndarray, list[Column]]:
    """Return what is to be learned, of which objects it is known, and a column each."""
    if task == "classification":
        return class_target(source, names)
    refuse_text(source, names)
    y, columns = source.targets(names)
    # Unknown numbers are NaN, and left out target by target in the fit.
    return y, np.ones(len(y), dtype=bool), columns


def describe_targets(columns: list[Column]) -> Callable[[Path], object]:
    """Return a function that notes name, unit, description and UCD of targets in a folder."""
    told = [
        {
            "name": c.name,
            "unit": str(c.unit or ""),
            "description": c.description or "",
            "ucd": c.meta.get("ucd", ""),
        }
        for c in columns
    ]
    text = json.dumps(told, indent=1) + "\n"
    return lambda folder: (folder / _TARGETS).write_text(text, encoding="utf-8")


def _refuse_targets_as_inputs(targets: list[str], inputs: list[str], source: Input) -> None:
    """Refuse to learn what is given: the same modality, or the same column of the table."""
    from omnisky.data.usertable import target_column
    from omnisky.surveys import modalities

    known, asked = modalities(), {target.lower() for target in targets}
    if both := [n for n in inputs if not asked.isdisjoint({n.lower(), known[n].column.lower()})]:
        raise ValueError(
            f"{', '.join(both)} cannot be both input and target; name the --inputs without it"
        )
    for target in targets if source.table is not None else ():
        column = target_column(source.table, target)
        # Errors and the like that the user named are read with their modality.
        ends = ("", "_error", "_wavelength")
        readers = [n for n in inputs if column in [source.columns.get(n + end) for end in ends]]
        if readers:
            raise ValueError(
                f"target {target!r} is column {column!r}, which is also read as the input "
                f"{readers[0]}; name the --inputs without {readers[0]}, or another --targets"
            )


def predict(
    table: str,
    /,
    *,
    model: Path,
    out: Path,
    coverage: _Probability | None = None,
    base: str | None = None,
    device: str | None = None,
    reading: Reading = _READ,
    overwrite: bool = False,
) -> None:
    """Predict values and intervals with an adapted model.

    Writes ``<target>``, ``<target>_low`` and ``<target>_high`` in the unit of the target; of
    classes ``<target>`` and ``<target>_probability_<class>``. Any of the inputs of the fit may be
    missing; what was no input then is not used.

    Parameters
    ----------
    table : str
        Table file (of measurements, or of tokens that the model made) or data set.
    model : Path
        Folder that ``omnisky fit`` wrote.
    out : Path
        File to write; its ending says the format.
    coverage : float, optional
        Probability that an interval holds the truth, 0.9 by default; not for classes.
    base : str, optional
        Pretrained model that the fit was made on, if it has moved: a name, a folder, or a hub id.
    device : str, optional
        Where to compute: cpu, cuda or cuda:1; by default on a CUDA device where there is one.
    reading : Reading
        How to read the table.
    overwrite : bool
        Replace an existing file.
    """
    check_output(out, overwrite)
    if not model.is_dir():
        raise FileNotFoundError(f"no model {model}; expected the folder that omnisky fit wrote")
    from omnisky.adapt import FineTunedModel
    from omnisky.model.blocks import usable_device

    fitted = FineTunedModel.load(model, base=base, device=usable_device(device))
    source = Input.read(table, reading, base=fitted.base_.source if fitted.base_ else None)
    classes = fitted.task == "classification"
    if classes and coverage is not None:
        raise ValueError(
            f"--coverage is for intervals, but {model} predicts classes, which have probabilities; "
            "leave it out"
        )
    coverage = _COVERAGE if coverage is None else coverage
    x, rows = drop_empty(_seen(fitted, source))
    result = result_table(source)
    parts = slices(len(x), "Predictions")
    if classes:
        (told,) = _targets(model, 1)
        found = np.concatenate([fitted.predict_proba(x[s]) for s in parts])
        add_classes(result, told["name"], fitted, found, rows)
    else:
        values = np.concatenate([_bounds(fitted, x[s], coverage) for s in parts], axis=1)
        for i, told in enumerate(_targets(model, values.shape[2])):
            _add_interval(result, told, values[:, :, i], coverage, rows)
    save(result, out, overwrite)


def _add_interval(
    result: Table, told: dict[str, str], values: np.ndarray, coverage: float, rows: np.ndarray
) -> None:
    """Add prediction and bounds, shape (3, object), to the table of all objects."""
    suffixes = {"": "", "_low": f"lower, {coverage:g}: ", "_high": f"upper, {coverage:g}: "}
    for (suffix, prefix), column in zip(suffixes.items(), values, strict=True):
        name = f"{told['name']}{suffix}"
        result[name] = masked_rows(column, rows)
        result[name].unit = told["unit"] or None
        result[name].description = f"Predicted, {prefix}{told['description'] or told['name']}"
        if told["ucd"]:
            result[name].meta["ucd"] = told["ucd"]


def _seen(fitted: Any, source: Input):
    """Return the observations that the model was fitted with."""
    seen = [name for names in fitted.modalities_.values() for name in names]
    here = [name for name in source.observations if name in seen]
    if not here:
        raise ValueError(
            f"the model was fitted on {', '.join(seen) or 'plain arrays'}, of which {source.name} "
            f"has none; it has {', '.join(source.observations)}"
        )
    return source.observations.select(*here)


def _bounds(fitted: Any, x: Any, coverage: float) -> np.ndarray:
    """Return prediction, lower and upper bound, shape (3, object, target)."""
    return np.stack(
        [np.reshape(a, (len(x), -1)) for a in fitted.predict_with_interval(x, coverage)]
    )


def _targets(model: Path, n_targets: int) -> list[dict[str, str]]:
    """Return name, unit, description and UCD of each target; numbered if fitted without names."""
    path = model / _TARGETS
    if not path.is_file():
        numbered = [f"prediction_{i + 1}" for i in range(n_targets)]
        return [{"name": n, "unit": "", "description": "", "ucd": ""} for n in numbered]
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        names = [t["name"] for t in told]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); fit again") from error
    if len(names) != n_targets:
        raise ValueError(f"{path} names {len(names)} targets, the model has {n_targets}; fit again")
    return told
