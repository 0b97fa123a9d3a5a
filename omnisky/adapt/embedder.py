"""Embedder: pretrained embeddings as a scikit-learn transformer."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from omnisky.adapt.inputs import load_base, tokens_of

__all__ = ["Embedder"]


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn observations into embeddings, for pipelines with any scikit-learn estimator.

    Parameters
    ----------
    base : str, path or Model
        Pretrained model: its name, its folder, its hub id (``organisation/name@revision``), or
        itself.
    pooling : str
        How the tokens of an object become one vector; ``"mean"``.

    Attributes
    ----------
    base_ : Model
        The pretrained model.

    Examples
    --------
    ``make_pipeline(Embedder("nano"), KNeighborsRegressor()).fit(stars.observations, teff)``
    """

    def __init__(self, base="nano", pooling="mean") -> None:
        self.base = base
        self.pooling = pooling

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that X is not an array."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def fit(self, X, y=None) -> Embedder:
        """Load the pretrained model; nothing is learned from the objects.

        Parameters
        ----------
        X : Observations or Tokens
            Used to check that the model knows their modalities.
        y : ignored
            For scikit-learn's sake.

        Raises
        ------
        ValueError
            If there is no such pooling, or the first object has no token at all.
        UnknownModalityError
            If the model does not know a modality.
        """
        if self.pooling != "mean":
            raise ValueError(
                f"pooling must be 'mean', one vector an object; found {self.pooling!r}. Vectors of "
                "tokens are had from Model.embed(..., pooling='tokens')"
            )
        self.base_ = load_base(self.base)
        vectors = self._embed(X[:1])
        self._n_features_out = vectors.shape[1]
        return self

    def transform(self, X) -> np.ndarray:
        """Return embeddings, float32, shape (object, dim).

        Parameters
        ----------
        X : Observations or Tokens
            Any subset of the modalities the model knows.

        Raises
        ------
        ValueError
            If an object has no token at all; says how many and which is the first.
        UnknownModalityError
            If the model does not know a modality.
        """
        check_is_fitted(self, "base_")
        return self._embed(X)

    def _embed(self, X) -> np.ndarray:
        tokens = tokens_of(X, self.base_)
        vectors = self.base_.embed(tokens, pooling=self.pooling).vectors
        return np.asarray(vectors, dtype=np.float32)
