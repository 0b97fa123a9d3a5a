"""What a pretraining recipe may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from omnisky.model.masking import MaskingConfig
from omnisky.train.codec.recipe import MockRecipe
from omnisky.train.config import TrainConfig

__all__ = ["EvaluationRecipe", "PretrainingData", "PretrainingRecipe", "PretrainingSource"]


@dataclass(frozen=True, kw_only=True)
class PretrainingSource:
    """Name one source of objects; exactly one of `dataset`, `store`, `mock`, `tokens` is given.

    Only objects of its train split are trained on, and only those of its calibration split are
    evaluated on. Stores and mock universes are split by the hash of the object's id, matched stores
    by that of the first one.

    Parameters
    ----------
    dataset : str
        Name of a data set, see `omnisky.data.datasets.load`; labels are modalities too.
    store : str or tuple of str
        Folder of a sky store below `PretrainingData.path`; several are matched with the first one
        by position, and an object gets one row with all that they have of it.
    mock : MockRecipe, optional
        A mock universe; surveys that share an object give one row.
    tokens : str
        Folder below `PretrainingData.path` with the tokens of an earlier run:
        ``<run>/tokens/<source>``.
    modalities : tuple of str
        Which of its modalities; by default all that the model has.
    needs : tuple of str
        Modalities without which an object is left out.
    weight : float
        Share of a training batch, relative to the other sources; 0 for a source that is only
        evaluated on.
    objects : int
        Most objects to train on, taken evenly through the source; 0 for all.
    radius_arcsec : float
        Largest separation of matched objects.
    how : {"inner", "left"}
        Take objects that all stores have, or all of the first store.
    """

    dataset: str = ""
    store: str | tuple[str, ...] = ()
    mock: MockRecipe | None = None
    tokens: str = ""
    modalities: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    objects: int = 0
    radius_arcsec: float = 1.0
    how: Literal["inner", "left"] = "inner"

    def __post_init__(self) -> None:
        given = {"dataset": self.dataset, "store": self.store, "tokens": self.tokens}
        if sum(bool(value) for value in given.values()) + (self.mock is not None) != 1:
            raise ValueError(
                'a [[data.sources]] has exactly one of dataset = "name", store = "folder", mock = '
                '{ objects = number } and tokens = "folder"; found '
                + ", ".join(f"{name}={value!r}" for name, value in given.items())
                + f", mock={self.mock!r}"
            )
        if not self.weight >= 0 or self.weight == float("inf") or self.objects < 0:
            raise ValueError(
                "a [[data.sources]] has weight >= 0 and objects >= 0; found "
                f"{self.weight} and {self.objects}"
            )
        if self.modalities and (lost := [n for n in self.needs if n not in self.modalities]):
            raise ValueError(
                f"{self} needs {', '.join(lost)}, which is none of its modalities "
                f"{', '.join(self.modalities)}"
            )

    def __str__(self) -> str:
        if self.mock is not None:
            return f"mock universe of {self.mock.objects} objects, seed {self.mock.seed}"
        if self.stores:
            return f"store {' × '.join(self.stores)}"
        return f"tokens {self.tokens}" if self.tokens else f"data set {self.dataset}"

    @property
    def stores(self) -> tuple[str, ...]:
        """Folders of its stores."""
        return (self.store,) if isinstance(self.store, str) and self.store else tuple(self.store)


@dataclass(frozen=True, kw_only=True)
class PretrainingData:
    """Say where the objects come from.

    Parameters
    ----------
    sources : tuple of PretrainingSource
        Sources of objects, each with some of the modalities.
    path : str
        Folder below which stores and saved tokens lie.
    chunk : int
        Objects of stores and mock universes that are read and tokenised at a time; what a stopped
        run loses at most.
    """

    sources: tuple[PretrainingSource, ...]
    path: str = ""
    chunk: int = 128

    def __post_init__(self) -> None:
        if not any(source.weight for source in self.sources):
            raise ValueError(
                "pretraining needs a section [[data.sources]] with a positive weight; found "
                f"{len(self.sources)} without one"
            )
        if self.chunk < 1:
            raise ValueError(f"data.chunk must be positive; found {self.chunk}")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """Say how thoroughly to evaluate.

    Parameters
    ----------
    objects : int
        Most held-out objects of a source at every checkpoint, taken evenly through it.
    matrix_objects : int
        Most held-out objects of a source for the any-to-any matrix at the end; 0 for no matrix.
    visible : int
        Most tokens shown of all other modalities: about as many as in training, as a network that
        never saw more makes little of them. 0 for all.
    seed : int
        Seed of the bootstrap.
    """

    objects: int = 512
    matrix_objects: int = 0
    visible: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objects < 1 or min(self.matrix_objects, self.visible, self.seed) < 0:
            raise ValueError(
                "evaluation has objects >= 1, and matrix_objects, visible and seed >= 0; found "
                f"{self.objects}, {self.matrix_objects}, {self.visible} and {self.seed}"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainingRecipe:
    """Say what to pretrain on what.

    Parameters
    ----------
    data : PretrainingData
        Sources of objects.
    codecs : str or tuple of str
        Where the codecs are: folders with one codec folder a modality, folders of models, AION-1's
        included, models that ship with omnisky (``"nano"``), or codecs that do (``"image"``). Where
        two have a modality, the first counts; `start_from` keeps the codecs that it has, whatever
        they have.
    modalities : tuple of str
        Which of them the model is trained on, in the order of its slots; by default all.
    masking : MaskingConfig
        What is hidden.
    train : TrainConfig
        How long and how fast.
    preset : str
        Size of the model.
    layout : {"own", "aion"}
        Of a fresh model: ours, or exactly the network that AION-1 released, which takes only
        modalities and codecs as they were there (`omnisky.model.Model.from_preset`).
    start_from : str
        Pretrained model to go on from, its new modalities appended; empty for a fresh one.
    frozen : bool
        Keep all that `start_from` knows as it is, and train what its new modalities add alone.
    token_weights : dict of str to float
        Weight of one token of a modality in the loss; 1 where nothing is said.
    dropout : float
        Share of what each part of each block says that is left out, against memorising.
    evaluation : EvaluationRecipe
        How thoroughly to evaluate.
    """

    data: PretrainingData
    codecs: str | tuple[str, ...]
    masking: MaskingConfig
    train: TrainConfig
    modalities: tuple[str, ...] = ()
    preset: str = "nano"
    layout: Literal["own", "aion"] = "own"
    start_from: str = ""
    frozen: bool = False
    token_weights: dict[str, float] = field(default_factory=dict)
    dropout: float = 0.0
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); found {self.dropout!r}")
        if self.layout != "own" and self.start_from:
            raise ValueError(
                f"layout = {self.layout!r} is for a fresh model; that of {self.start_from} is what "
                "it is. Leave out layout, or start_from"
            )
        if self.frozen and not self.start_from:
            raise ValueError(
                "frozen = true keeps what start_from knows; name a model to start from"
            )
