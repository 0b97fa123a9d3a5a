"""The work of the quickstart: stars, tokens, an adapted model, predictions and samples."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.adapt import FineTunedModel
from omnisky.adapt.conformal import labels_to_blend
from omnisky.adapt.metrics import coverage, robust_scatter
from omnisky.adapt.storage import save as save_model
from omnisky.cli.fit import describe_targets
from omnisky.cli.quickstart import figures, galaxies
from omnisky.cli.tables import Input
from omnisky.codecs.tokens import Tokens
from omnisky.data import datasets
from omnisky.model import Model
from omnisky.model.generation import calibration_of
from omnisky.model.generation.calibration import ENOUGH
from omnisky.storage import CheckpointError
from omnisky.train.recipe import write_json

if TYPE_CHECKING:
    from omnisky.data.datasets import Dataset
    from omnisky.model.generation import ScalarPosterior

__all__ = ["FIGURES", "check_own", "run"]

FIGURES = (
    "1_predictions.png",
    "2_spectra_from_photometry.png",
    "3_iron_posteriors.png",
    "4_photometry_from_spectrum.png",
)

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")
XP = ("gaia_xp",)
TARGETS = ("apogee_teff", "apogee_logg", "apogee_fe_h")
_UNITS = ("K", "dex", "dex")
_INPUTS = {"XP + photometry": (*XP, *PHOTOMETRY), "XP": XP, "photometry": PHOTOMETRY}
_COVERAGE = 0.9
# In the folder of the model: what the quickstart fitted it to.
_NOTE = "quickstart.json"
# Stars that recalibrate posteriors; more would cost seconds and add little.
_KNOWN = 500


def run(
    stage: Callable[[str], None], out: Path, key: dict[str, Any], base: str, sky: str
) -> dict[str, Any]:
    """Do everything and return what was found; figures, model and results.json are in `out`.

    Parameters
    ----------
    stage : callable
        Told what is done next.
    out : Path
        Folder.
    key : dict
        What the results depend on.
    base, sky : str
        Pretrained models for stars, and for galaxies (empty leaves them out).
    """
    stage("loading stars and model")
    check_own(out)
    out.mkdir(parents=True, exist_ok=True)
    stars = datasets.load(key["dataset"])
    model = Model.from_pretrained(base)
    parts, blend = _parts(stars, key["labels"])
    stage("turning observations into tokens")
    tokens = {n: model.tokenize(p.observations.select(*XP, *PHOTOMETRY)) for n, p in parts.items()}
    stage(f"adapting with {len(parts['train']) + blend} labels")
    adapted = _stored(out / "model", model, {**key, "blend": blend})
    if adapted is None:
        adapted = _fitted(model, tokens, parts, blend / len(parts["calibration"]))
        _save(adapted, out / "model", base, {**key, "blend": blend}, parts["train"])
    stage("predicting test stars")
    rows, predicted = _predict(adapted, tokens["test"], parts["test"])
    figures.predictions(
        out / FIGURES[0], parts["test"].targets(*TARGETS), predicted, TARGETS, _UNITS
    )
    stage("generating spectra from photometry")
    _generate_spectra(out, model, tokens["test"], parts["test"])
    stage("sampling posteriors of [Fe/H] and photometry")
    drawn = [FIGURES[0], FIGURES[1], *_generate_scalars(out, model, tokens, parts)]
    counts = {"blend": blend, **{n: len(p) for n, p in parts.items()}}
    result = {"key": key, "stars": counts, "rows": rows, "figures": drawn}
    if sky:
        stage("images, redshifts and spectra of mock galaxies")
        result["galaxies"] = galaxies.show_galaxies(out, sky)
        drawn += galaxies.FIGURES
    stage("writing results")
    write_json(result, out / "results.json")
    return result


def check_own(out: Path) -> None:
    """Raise `FileExistsError` where what others wrote would be replaced."""
    # The note in the model is written before any figure.
    ours = (out / "model" / _NOTE).is_file()
    foreign = [out / "model"] if (out / "model").exists() and not ours else []
    if not ours and not _is_result(out / "results.json"):
        names = ("results.json", *FIGURES, *galaxies.FIGURES)
        foreign += [out / name for name in names if (out / name).exists()]
    if foreign:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise FileExistsError(
            f"{foreign[0]}{more} exists and was not written by omnisky quickstart; choose another "
            "--out, or remove it"
        )


def _is_result(path: Path) -> bool:
    """Return True for a results.json that `run` wrote, whatever its key."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"dataset", "labels", "weights", "format"} <= found["key"].keys()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _parts(stars: Dataset, labels: int) -> tuple[dict[str, Dataset], int]:
    """Return the parts, and how many calibration stars choose the blend of the head's parts."""
    train = stars["train"]
    known = np.flatnonzero(np.isfinite(train.targets(*TARGETS)).any(axis=1))
    labels = min(labels, len(known))
    # Labels that choose the blend count among those that were asked for.
    blend = labels_to_blend(labels, len(stars["calibration"]))
    chosen = np.random.default_rng(0).permutation(known)[: labels - blend]
    parts = {"train": train[chosen], "calibration": stars["calibration"], "test": stars["test"]}
    return parts, blend


def _of_model(key: dict[str, Any]) -> dict[str, Any]:
    return {name: key[name] for name in ("dataset", "labels", "weights", "format", "blend")}


def _stored(folder: Path, model: Model, key: dict[str, Any]) -> FineTunedModel | None:
    """Return the model of an earlier run if it was fitted to the same stars and weights."""
    try:
        if json.loads((folder / _NOTE).read_text(encoding="utf-8")) != _of_model(key):
            return None
        return FineTunedModel.load(folder, base=model)
    except FileNotFoundError as error:
        if not folder.exists():
            return None
        reason = error
    except (CheckpointError, ValueError) as error:
        reason = error
    warnings.warn(f"{reason}; fitting again", stacklevel=2)
    shutil.rmtree(folder)  # it has our note, see `check_own`
    return None


def _fitted(
    model: Model, tokens: dict[str, Tokens], parts: dict[str, Dataset], blend: float
) -> FineTunedModel:
    adapted = FineTunedModel(base=model, adaptation="attentive")
    adapted.fit(tokens["train"], parts["train"].targets(*TARGETS))
    # The pretrained model knows labels of train stars: only stars that are new to it can say how
    # much its own answers are worth.
    held = parts["calibration"].targets(*TARGETS)
    return adapted.calibrate(tokens["calibration"], held, blend=blend)


def _save(
    adapted: FineTunedModel, folder: Path, base: str, key: dict[str, Any], train: Dataset
) -> None:
    """Write the model with what it was fitted to, and with what predict is to call its targets."""
    source = Input(
        name=key["dataset"],
        id_name="source_id",
        object_id=train.object_id,
        observations=train.observations,
        dataset=train,
    )
    describe = describe_targets(source.targets(list(TARGETS))[1])

    def note(work: Path) -> None:
        describe(work)
        write_json(_of_model(key), work / _NOTE)

    # Fitted on a model that was loaded already; stored is what it is called.
    named = adapted.set_params(base=base)
    save_model(named, folder, overwrite=True, extra=note)


def _predict(
    adapted: FineTunedModel, tokens: Tokens, test: Dataset
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return one table row an input set, and the predictions from everything."""
    truth = test.targets(*TARGETS)
    rows, everything = [], np.empty(0)
    for name, inputs in _INPUTS.items():
        given = tokens.select(*inputs)
        predicted, low, high = adapted.predict_with_interval(given, _COVERAGE)
        if not rows:
            everything = predicted
        scatter = [robust_scatter(p - t) for p, t in zip(predicted.T, truth.T, strict=True)]
        inside = [coverage(truth[:, i], low[:, i], high[:, i]) for i in range(len(TARGETS))]
        rows.append({"inputs": name, "scatter": scatter, "coverage": inside})
    return rows, everything


def _generate_spectra(out: Path, model: Model, tokens: Tokens, test: Dataset) -> None:
    chosen = _cool_to_hot(test, 4)
    given = tokens[chosen].select(*PHOTOMETRY)
    samples = model.generate(given, "gaia_xp", n_samples=24)["gaia_xp"]
    figures.generated_spectra(out / FIGURES[1], test[chosen], samples)


def _generate_scalars(
    out: Path, model: Model, tokens: dict[str, Tokens], parts: dict[str, Dataset]
) -> list[str]:
    """Draw posteriors of [Fe/H], if the model knows it, and photometry; return what was drawn."""
    test, drawn = parts["test"], []
    if "apogee_fe_h" in model.network.names:
        chosen = _cool_to_hot(test, 4)
        posteriors, known = _iron(model, tokens["test"][chosen], tokens["calibration"], parts)
        figures.posteriors(out / FIGURES[2], test[chosen], posteriors, known)
        drawn.append(FIGURES[2])
    some = np.arange(min(len(test), 500))
    generated = {
        band: model.generate(tokens["test"][some].select(*XP), band, n_samples=1)[band]
        for band in ("gaia_g", "twomass_j", "twomass_k")
    }
    figures.photometry(out / FIGURES[3], test[some], generated)
    return [*drawn, FIGURES[3]]


def _iron(
    model: Model, tokens: Tokens, others: Tokens, parts: dict[str, Dataset]
) -> tuple[dict[str, ScalarPosterior], int]:
    """Return posteriors of [Fe/H] by inputs, and how many of the other stars recalibrated them.

    The model's own are too narrow. Too few other stars (of a small data set) leave them so.
    """
    truth = parts["calibration"].targets("apogee_fe_h")[:, 0]
    known = np.flatnonzero(np.isfinite(truth))[:_KNOWN]
    found = {}
    for name, inputs in _INPUTS.items():
        posterior = model.generate(tokens.select(*inputs), "apogee_fe_h")["apogee_fe_h"]
        if len(known) >= ENOUGH:
            given = others[known].select(*inputs)
            told = model.generate(given, "apogee_fe_h", n_samples=1)["apogee_fe_h"]
            posterior = calibration_of(told, truth[known]).recalibrate(posterior)
        found[name] = posterior
    return found, len(known) if len(known) >= ENOUGH else 0


def _cool_to_hot(test: Dataset, count: int) -> np.ndarray:
    """Return test stars with known labels, spread evenly in temperature."""
    known = np.flatnonzero(np.isfinite(test.targets(*TARGETS)).all(axis=1))
    order = known[test.targets("apogee_teff")[known, 0].argsort()]
    return order[(np.linspace(0.05, 0.95, count) * (len(order) - 1)).astype(int)]
