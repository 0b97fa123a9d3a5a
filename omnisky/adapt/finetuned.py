"""FineTunedModel: a scikit-learn estimator on a pretrained model, with calibrated intervals."""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import ClassifierTags, RegressorTags, Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from omnisky.adapt import fitting, inputs, storage
from omnisky.adapt.conformal import ConformalScores, choose_blend, held_scores
from omnisky.adapt.heads import ENOUGH, HeadShape
from omnisky.adapt.inputs import FULL, View
from omnisky.adapt.labels import Labels, TargetScale, read_classes, read_numbers
from omnisky.adapt.measured import MeasuredColumns
from omnisky.adapt.metrics import r2
from omnisky.model import Model

__all__ = ["FineTunedModel"]


def _is_classifier(self: FineTunedModel) -> bool:
    return self.task == "classification"


class FineTunedModel(BaseEstimator):
    """Predict labels from observations with a pretrained model; a scikit-learn estimator.

    Any modality may be missing from any object, at fit and at predict; one fitted model serves
    every subset of the modalities it was fitted with.

    Parameters
    ----------
    base : str, path or Model
        A name, folder, hub id (``organisation/name@revision``) or Model. Unused for plain arrays.
    adaptation : {"attentive", "linear", "full"}
        ``"linear"``: linear probe of the mean-pooled tokens, solved in closed form.
        ``"attentive"``: an ensemble of heads whose queries attend to the frozen tokens, which are
        told what the decoder expects of quantities not given, and are blended with small networks
        on the measured numbers (scalars, spectra of up to 1000 pixels).
        ``"full"``: the same head, and the pretrained model is trained along.
    task : {"regression", "classification"}
        What y holds: numbers, or classes.
    epochs : int, optional
        Passes over the objects; without it 60 for attentive and 30 for full, fewer with thousands.
    learning_rate : float
        Peak learning rate of the head; the encoder gets a tenth of it.
    ensemble : int, optional
        Members, each trained without one fold of the objects; without it 5 for attentive (3 from
        3000 objects on), 1 for full, trained without a seventh of them. Linear is always one.
    modality_dropout : float
        Probability, 0 to 1, to show a training object with spectra alone, or with scalars alone.
    random_state : int, RandomState or None
        Fixes folds, initial weights and order.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    modalities_ : dict of str to list of str
        Modalities seen at fit, by kind; empty for plain arrays.
    classes_ : array, shape (class,)
        The classes (classification only).
    target_ndim_ : int
        Dimensions of y at fit; predictions have as many.
    n_features_in_ : int
        Width of the embeddings (plain arrays only).

    Examples
    --------
    >>> import numpy as np
    >>> embeddings = np.random.default_rng(0).normal(size=(200, 8))
    >>> model = FineTunedModel(adaptation="linear").fit(embeddings, embeddings[:, 0])
    >>> bool(np.abs(model.predict(embeddings) - embeddings[:, 0]).max() < 0.1)
    True
    """

    def __init__(
        self,
        base: str | PathLike | Model = "nano",
        adaptation="attentive",
        task="regression",
        *,
        epochs=None,
        learning_rate=2e-3,
        ensemble=None,
        modality_dropout=0.2,
        random_state=0,
        verbose=False,
    ) -> None:
        self.base = base
        self.adaptation = adaptation
        self.task = task
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.ensemble = ensemble
        self.modality_dropout = modality_dropout
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what this estimator is, by its task."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if _is_classifier(self):
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
            tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y) -> FineTunedModel:
        """Learn from objects and their labels.

        Parameters
        ----------
        X : Observations, Tokens, or array, shape (object, feature)
            What was measured, or embeddings of it.
        y : array, shape (object,) or (object, target)
            Labels in any unit; NaN (or masked) where unknown. One-dimensional for classes.

        Raises
        ------
        ValueError
            If a parameter is out of range, X and y disagree in length, an object has no token, y is
            infinite, or a target has no known label.
        UnknownModalityError
            If the pretrained model does not know a modality.
        """
        settings = self._settings()
        views = self._door(X, fit=True)
        seed = int(check_random_state(self.random_state).randint(2**31))
        device = inputs.device_of(self.base_)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._fit(views, self._labels(y, inputs.count_objects(views)), settings)
        return self

    def predict(self, X) -> np.ndarray:
        """Return predictions, shaped as y was at fit and in its unit; classes for classification.

        Parameters
        ----------
        X : Observations, Tokens, or array, shape (object, feature)
            Like at fit; modalities may be missing, for some objects or for all.

        Raises
        ------
        ValueError
            If an object has no token at all; says how many and which is the first.
        """
        if _is_classifier(self):
            best = self.predict_proba(X).argmax(axis=1)
            return self.classes_[best]
        return self._labelled(self._gather(X)[0])

    @available_if(_is_classifier)
    def predict_proba(self, X) -> np.ndarray:
        """Return class probabilities, shape (object, class), in the order of ``classes_``."""
        return self._gather(X)[0]

    def predict_interval(self, X, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return the interval of each prediction that holds the truth with this probability.

        Calibrated on objects left out while fitting, or on those given to `calibrate`, which is
        needed if the base was pretrained with the labels of the former, as it knows these too well;
        separately for objects with everything, with spectra alone and with scalars alone.

        Parameters
        ----------
        X : Observations, Tokens, or array, shape (object, feature)
            Like for `predict`.
        coverage : float
            Probability, between 0 and 1, for each target on its own.

        Returns
        -------
        lower, upper : array
            In the shape and unit of the predictions.

        Raises
        ------
        ValueError
            If the coverage is outside (0, 1) or more than the calibration objects allow.
        TypeError
            For classification.
        """
        self._refuse_classes("predict_interval")
        return self.predict_with_interval(X, coverage)[1:]

    def predict_with_interval(
        self, X, coverage: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return predictions, lower and upper in one pass; see `predict` and `predict_interval`."""
        self._refuse_classes("predict_with_interval")
        location, width, pattern = self._gather(X)
        half = width * self.conformal_.quantiles(self.patterns_, pattern, coverage)
        y, lower, upper = (self._labelled(location + side * half) for side in (0, -1, 1))
        return y, lower, upper

    def calibrate(self, X, y, *, blend: float = 0.0) -> FineTunedModel:
        """Calibrate the intervals on held-out objects, which makes their coverage exact.

        Parameters
        ----------
        X, y : like for `fit`
            Objects that took no part in fitting, drawn like those to come.
        blend : float
            Share of these objects, at least 100, that choose anew how the head's parts are blended,
            if another blend is clearly better; the others calibrate. For pretrained models that
            know the labels of the fit, whose answers look better there than they are.

        Raises
        ------
        ValueError
            If blend is outside [0, 1).
        """
        self._refuse_classes("calibrate")
        if not 0 <= blend < 1:
            raise ValueError(f"blend must be a share from 0 to below 1; found {blend!r}")
        views = self._door(X, fit=False, subsets=True)
        targets = len(self.scale_.centre)
        target = self.scale_.forward(read_numbers(y, inputs.count_objects(views), targets))
        # A whole number of objects, also where the share was rounded.
        chosen = np.diff(np.floor(np.arange(len(target) + 1) * blend + 1e-9)) > 0
        if chosen.sum() >= ENOUGH and self.adaptation != "linear":
            choose_blend(self.units_, views, target, chosen, self.scale_)
            views = [view[~chosen[view.rows]] for view in views if not chosen[view.rows].all()]
        scores = {}
        for view in views:
            location, width = self._predict_view(view)
            scores[view.index] = np.abs(target[view.rows] - location) / width
        self.conformal_ = ConformalScores.collect([scores], self.patterns_, targets, "split")
        return self

    def score(self, X, y) -> float:
        """Return R², the mean over targets of objects with known labels; accuracy for classes."""
        predicted = self.predict(X)
        if _is_classifier(self):
            return float(np.mean(predicted == np.asarray(y)))
        truth = read_numbers(y, len(predicted))
        residual = predicted.reshape(truth.shape) - truth
        return float(np.mean([r2(r, t) for r, t in zip(residual.T, truth.T, strict=True)]))

    def save(self, folder: str | PathLike, *, overwrite: bool = False) -> Path:
        """Write the fitted model to a folder, whole or not at all: safetensors and JSON.

        The pretrained model is not copied but named, with the sha256 of its weights.
        Raises `FileExistsError` if the folder exists and may not be replaced.
        """
        check_is_fitted(self, "units_")
        return storage.save(self, Path(folder), overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | PathLike, *, base=None, device=None) -> FineTunedModel:
        """Read a model that `save` wrote; `base` is the pretrained model if that has moved.

        The base goes to `device` if one is given. Raises `FileNotFoundError`, `ValueError` if there
        is no such device, `CheckpointError` for damage, other versions or other weights.
        """
        return storage.load(cls, Path(folder), base=base, device=device)

    def _settings(self) -> fitting.FitSettings:
        allowed = {"adaptation": fitting.ADAPTATIONS, "task": ("regression", "classification")}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; found {getattr(self, name)!r}"
                )
        if (n := self.ensemble) is not None and not (isinstance(n, Integral) and int(n) >= 1):
            raise ValueError(f"ensemble must be a whole number from 1 up, or None; found {n!r}")
        return fitting.FitSettings(
            adaptation=self.adaptation,
            epochs=self.epochs,
            learning_rate=float(self.learning_rate),
            modality_dropout=float(self.modality_dropout),
            progress=bool(self.verbose),
        )

    def _door(self, X, *, fit: bool, subsets: bool = False) -> list[View]:
        """Return X sorted by input patterns: all it allows, or those given."""
        objects = inputs.are_objects(X)
        if fit:
            self.base_ = inputs.load_base(self.base, to_fit=True) if objects else None
            self.modalities_, self.columns_ = {}, MeasuredColumns({})
            self.patterns_ = [FULL]
        else:
            check_is_fitted(self, "units_")
        if not objects:
            return [self._array(X, fit=fit)]
        if self.base_ is None:
            raise ValueError(
                f"this model was fitted on arrays of {self.n_features_in_} features; found "
                f"{type(X).__name__}. Embed them first, or fit on Observations or Tokens"
            )
        tokens = inputs.tokens_of(X, self.base_, None if fit else self.modalities_)
        if fit:
            if len(tokens) < 2:
                raise ValueError(f"fitting needs at least 2 objects; found {len(tokens)}")
            self.modalities_ = inputs.groups_of(tokens)
            if self.adaptation != "linear":
                self.columns_ = inputs.measured_columns(tokens, self.base_)
            self.patterns_ = [FULL, *self.modalities_] if len(self.modalities_) > 1 else [FULL]
        sort = inputs.subset_views if fit or subsets else inputs.present_views
        views = sort(tokens, self.modalities_)
        return inputs.measure(views, tokens, self.base_, self.columns_)

    def _array(self, X, *, fit: bool) -> View:
        if self.modalities_:
            raise ValueError(
                "this model was fitted on Observations or Tokens; found "
                f"{type(X).__name__}. Give it the same modalities, or fewer"
            )
        if self.adaptation == "full":
            raise ValueError(
                "adaptation='full' trains the encoder and needs Observations or Tokens; found an "
                "array of features. Use 'linear' or 'attentive' for arrays"
            )
        X = validate_data(self, X, reset=fit, dtype=np.float32, ensure_min_samples=1 + fit)
        return View.of_array(np.asarray(X))

    def _labels(self, y, objects: int) -> Labels:
        members = self.ensemble or fitting.default_members(self.adaptation, objects)
        members = 0 if self.adaptation == "linear" else members
        if _is_classifier(self):
            self.classes_, codes = read_classes(y, objects)
            self.target_ndim_ = 1
            return Labels.deal(torch.as_tensor(codes, dtype=torch.long), members)
        numbers = read_numbers(y, objects)
        self.target_ndim_ = np.asarray(y).ndim
        self.scale_ = TargetScale.fit(numbers)
        target = torch.as_tensor(self.scale_.forward(numbers), dtype=torch.float32)
        return Labels.deal(target, members)

    def _fit(self, views: list[View], labels: Labels, settings: fitting.FitSettings) -> None:
        network = None if self.base_ is None else self.base_.network
        asks = self._asks()
        views = [inputs.encode(network, view, asks) for view in views]
        seen = views[0].features()
        shape = HeadShape(
            dim=seen.x.shape[2],
            asks=asks,
            answers=seen.answers.shape[1],
            measured=self.columns_.width,
            pixels=self.columns_.n_pixels,
            outputs=len(self.classes_) if labels.classes else labels.target.shape[1],
            views=len(self.patterns_),
            members=1 if self.adaptation == "full" else len(labels.train),
            attentive=self.adaptation != "linear",
        )
        self.units_, scores = [], []
        for part in labels.each() if self.adaptation == "full" else [labels]:
            unit, residuals = fitting.fit_unit(shape, views, part, settings, network)
            self.units_.append(unit)
            if not labels.classes:
                scores.append(held_scores(unit, views, part, self.scale_, residuals))
        if scores:
            kind = "cross-fitted"
            self.conformal_ = ConformalScores.collect(scores, self.patterns_, shape.outputs, kind)

    def _asks(self) -> tuple[str, ...]:
        """Return the quantities the decoder is asked for beside the encoder's tokens."""
        if self.base_ is None or self.adaptation == "linear":
            return ()
        return self.base_.network.can_ask([n for names in self.modalities_.values() for n in names])

    def _predict_view(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return location and width, or class probabilities and zeros, shape (row, target)."""
        runs = zip(*(unit.run(view) for unit in self.units_), strict=True)
        location, log_scale = map(np.concatenate, runs)
        if _is_classifier(self):
            location = np.exp(location - location.max(-1, keepdims=True))
            location /= location.sum(-1, keepdims=True)
            return location.mean(0), np.zeros(location.shape[1:])
        return self.scale_.clip(location.mean(0)), np.exp(log_scale.mean(0))

    def _gather(self, X) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return location, width and input pattern of every object, in the order given."""
        check_is_fitted(self, "units_")
        views = self._door(X, fit=False)
        parts = [self._predict_view(view) for view in views]
        order = np.argsort(np.concatenate([view.rows for view in views]))
        pattern = np.concatenate([np.full(len(view.rows), view.index) for view in views])
        location, width = (np.concatenate(p)[order] for p in zip(*parts, strict=True))
        return location, width, pattern[order]

    def _labelled(self, location: np.ndarray) -> np.ndarray:
        y = self.scale_.inverse(location)
        return y[:, 0] if self.target_ndim_ == 1 else y

    def _refuse_classes(self, what: str) -> None:
        if _is_classifier(self):
            raise TypeError(f"{what} is for regression; for classes use predict_proba(X)")
        check_is_fitted(self, "units_")
