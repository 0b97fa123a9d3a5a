"""Codecs whose bins have a closed form: scalars and coefficients, from data in memory or stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.codecs.aion.surroundings import AionCatalogCodec
from omnisky.codecs.codec import Codec
from omnisky.codecs.scalars.coefficients import CoefficientsCodec
from omnisky.codecs.scalars.scalar import ScalarCodec
from omnisky.codecs.surroundings.catalog import CatalogCodec
from omnisky.data.split import split_by_id
from omnisky.modalities import Catalog, Coefficients, Scalar, UnknownModalityError
from omnisky.surveys import modalities
from omnisky.train.codec.recipe import DataRecipe, ScalarsRecipe
from omnisky.train.codec.sources import InMemory, open_source, thinned

__all__ = ["fit_codec"]


def fit_codec(name: str, recipe: ScalarsRecipe, sources: Sequence[DataRecipe], run: Path) -> Codec:
    """Fit the codec of scalars, coefficients or catalogs to the first source that has them.

    Only its train split is used.

    Scalars of a store are read a partition at a time, so that it may have any size; of coefficients
    and catalogs, all objects that the source shall give are in memory.

    Parameters
    ----------
    name : str
        The modality.
    recipe : ScalarsRecipe
        Where the bins shall lie.
    sources : sequence of DataRecipe
        Where objects come from.
    run : Path
        Folder for mock universes.

    Raises
    ------
    UnknownModalityError
        If no source has it.
    ValueError
        If it is of another kind, or the bins cannot be fitted.
    """
    tried = []
    for source in sources:
        if source.modality not in ("", name):
            continue
        try:
            training, _ = open_source(source, name, run)
        except UnknownModalityError as error:
            tried.append(str(error))
            continue
        if not isinstance(training, InMemory) and _is_scalar(name, training.store):
            return ScalarCodec.fit_store(
                training.store,
                name,
                where=lambda ids: split_by_id(ids) == "train",
                **recipe.settings(name),
            )
        training = thinned(training, source.objects)
        return _fitted(name, training.read(np.arange(len(training))), recipe)
    raise UnknownModalityError("; ".join(tried) or f"no section [[data]] is for {name!r}")


def _is_scalar(name: str, store: Any) -> bool:
    return any(layout.name == name for layout in store.layout.scalars)


def _fitted(name: str, measurement: Any, recipe: ScalarsRecipe) -> Codec:
    settings, released = recipe.settings(name), recipe.layout == "aion"
    if isinstance(measurement, Coefficients):
        more = {"parts": 0} if released else {}
        return CoefficientsCodec.fit(measurement, modality=name, **settings, **more)
    if isinstance(measurement, Catalog):
        if released:
            return AionCatalogCodec.fit(measurement, modality=name, count=False, **settings)
        return CatalogCodec.fit(measurement, modality=name, **settings)
    if not isinstance(measurement, Scalar):
        declared = modalities().get(name)
        kind = declared.kind if declared else type(measurement).__name__
        raise ValueError(f"{name!r} is a {kind}, not a scalar; use a section [codec] for it")
    return ScalarCodec.fit(measurement, modality=name, **settings)
