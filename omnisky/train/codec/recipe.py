"""What a codec recipe may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omnisky.codecs.codec import LearnedCodec
from omnisky.codecs.loading import codec_class
from omnisky.codecs.scalars.scales import Scale
from omnisky.codecs.spectrum.sampled import SampledSpectrumCodecConfig
from omnisky.train.config import TrainConfig
from omnisky.train.recipe import read_section

__all__ = ["CodecRecipe", "DataRecipe", "LearnedRecipe", "MockRecipe", "ScalarsRecipe"]


@dataclass(frozen=True, kw_only=True)
class ScalarsRecipe:
    """Fit codecs of scalars, of coefficients and of catalogs.

    Parameters
    ----------
    modalities : tuple of str
        Which modalities, observations or labels of the data.
    bins : int
        Vocabulary of each.
    scale : str
        Where the bins lie, see `omnisky.codecs.scalars.scales.Scale`; by default quantile bins for
        scalars, and bins that suit the errors for coefficients.
    scales : dict of str to str
        The same for single modalities, such as ``gaia_ra = "circular"``.
    ranges : dict of str to (float, float)
        Ends of linear scales.
    two_tokens : tuple of str
        Scalars that get a second token, the place within the bin: those measured more precisely
        than `bins` values can tell.
    layout : {"own", "aion"}
        "aion" makes tokens that the network of AION-1's release takes: one a scalar, coefficients
        as they are rather than relative to their first, catalogues in one vocabulary.
    """

    modalities: tuple[str, ...]
    bins: int = 1024
    scale: str = ""
    scales: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    two_tokens: tuple[str, ...] = ()
    layout: Literal["own", "aion"] = "own"

    def __post_init__(self) -> None:
        if self.layout == "aion" and self.two_tokens:
            raise ValueError(
                f"two_tokens has {', '.join(self.two_tokens)}, but in AION-1's layout a scalar has "
                "one token; leave out two_tokens, or layout"
            )
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"name modalities, each once; found {list(self.modalities)}")
        about = {"scales": self.scales, "ranges": self.ranges, "two_tokens": self.two_tokens}
        for key, given in about.items():
            if others := [name for name in given if name not in self.modalities]:
                raise ValueError(
                    f"{key} is about {', '.join(others)}, which is none of the modalities "
                    f"{', '.join(self.modalities)}"
                )
        for name in self.modalities:
            low, high = self.ranges.get(name, (0.0, 1.0))
            if kind := self.scales.get(name, self.scale):
                Scale(kind=kind, bins=self.bins, low=low, high=high)

    def settings(self, modality: str) -> dict[str, Any]:
        """Return what its codec is to be told when it is fitted."""
        told: dict[str, Any] = {"bins": self.bins}
        if scale := self.scales.get(modality, self.scale):
            told["scale"] = scale
        if modality in self.ranges:
            told["low"], told["high"] = self.ranges[modality]
        if modality in self.two_tokens:
            told["tokens"] = 2
        return told


@dataclass(frozen=True, kw_only=True)
class MockRecipe:
    """Draw objects of a mock universe, once, into a sky store in the folder of the run.

    Parameters
    ----------
    objects : int
        Objects of the universe; surveys have most of them, not all.
    seed : int
        Seed of the universe.
    size : int
        Side of the images in pixels.
    """

    objects: int
    seed: int = 0
    size: int = 160

    def __post_init__(self) -> None:
        if self.objects < 1 or self.seed < 0:
            raise ValueError(
                "a mock universe has objects >= 1 and seed >= 0; found "
                f"{self.objects} and {self.seed}"
            )


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Name one source of objects; exactly one of `dataset`, `store` and `mock` is given.

    Only objects of its train split are trained on, and only those of its calibration split are
    evaluated on. Stores and mock universes are split by the hash of the object's id.

    Parameters
    ----------
    dataset : str
        Name of a data set, see `omnisky.data.datasets.load`.
    store : str
        Folder of a sky store.
    mock : MockRecipe, optional
        A mock universe.
    modality : str
        Which modality; needed where the codec has several.
    weight : float
        Share of a training batch, relative to the other sources.
    objects : int
        Most objects to train on, taken evenly along the sky; 0 for all. Bins of scalars are fitted
        to all of a store in any case.
    """

    dataset: str = ""
    store: str = ""
    mock: MockRecipe | None = None
    modality: str = ""
    weight: float = 1.0
    objects: int = 0

    def __post_init__(self) -> None:
        if (bool(self.dataset), bool(self.store), self.mock is not None).count(True) != 1:
            raise ValueError(
                'a [[data]] source has exactly one of dataset = "name", store = "folder" and '
                f"mock = {{ objects = number }}; found dataset={self.dataset!r}, "
                f"store={self.store!r}, mock={self.mock!r}"
            )
        if not self.weight > 0 or self.objects < 0:
            raise ValueError(
                "a [[data]] source has a positive weight and objects >= 0; found "
                f"{self.weight} and {self.objects}"
            )

    def __str__(self) -> str:
        if self.mock is not None:
            return f"mock universe of {self.mock.objects} objects, seed {self.mock.seed}"
        return f"store {self.store}" if self.store else f"data set {self.dataset}"


@dataclass(frozen=True, kw_only=True)
class LearnedRecipe:
    """Train a codec with a network.

    Parameters
    ----------
    kind : str
        Kind of codec, such as ``"image-codec"``.
    config : mapping
        Its configuration, read as strictly as the rest.
    name : str
        Name of its folder; by default its modality, or its kind where it has several.
    samples : int
        Most training objects of a modality that bins and scales are fitted to.
    held_out : int
        Most held-out objects of a source to evaluate on.
    """

    kind: str
    config: Any = field(default_factory=dict)
    name: str = ""
    samples: int = 4096
    held_out: int = 512

    def __post_init__(self) -> None:
        made = codec_class(self.kind)
        if not issubclass(made, LearnedCodec):
            raise ValueError(f"a {self.kind} has no network to train; use a section [scalars]")
        if self.samples < 1 or self.held_out < 1:
            raise ValueError(
                f"samples and held_out must be positive; found {self.samples}, {self.held_out}"
            )
        if isinstance(self.config, Mapping):
            # What may stand in it depends on the kind, which only now is known.
            config = read_section(self.config, made.config_class, "codec.config")
            object.__setattr__(self, "config", config)

    def build(self) -> LearnedCodec:
        """Return the codec, untrained; its weights depend on torch's global generator."""
        codec = codec_class(self.kind)(self.config)
        assert isinstance(codec, LearnedCodec), "checked before"
        return codec


@dataclass(frozen=True, kw_only=True)
class CodecRecipe:
    """Say which codecs to train on which data.

    Parameters
    ----------
    dataset : str
        Name of a data set: short for one source in `data`.
    data : tuple of DataRecipe
        Sources of objects.
    scalars : ScalarsRecipe, optional
        Scalar codecs.
    spectrum : SampledSpectrumCodecConfig, optional
        A codec of spectra on one grid: short for a `codec` of that kind.
    codec : LearnedRecipe, optional
        A codec with a network; then `train` says how it is trained.
    train : TrainConfig, optional
        Training of the codec.
    """

    dataset: str = ""
    data: tuple[DataRecipe, ...] = ()
    scalars: ScalarsRecipe | None = None
    spectrum: SampledSpectrumCodecConfig | None = None
    codec: LearnedRecipe | None = None
    train: TrainConfig | None = None

    def __post_init__(self) -> None:
        if self.spectrum is not None and self.codec is not None:
            raise ValueError("a codec recipe has one section [spectrum] or [codec], not both")
        if (self.learned is None) != (self.train is None):
            raise ValueError(
                "a codec recipe has a section [codec] (or [spectrum]) and [train], or neither"
            )
        if self.learned is None and self.scalars is None:
            raise ValueError(
                "a codec recipe needs a section [scalars], [codec] or [spectrum]; found none"
            )
        if bool(self.dataset) == bool(self.data):
            raise ValueError(
                'a codec recipe has its data in dataset = "name" or in sections [[data]]; found '
                + ("both" if self.data else "neither")
            )

    @property
    def learned(self) -> LearnedRecipe | None:
        """The codec with a network, if there is one."""
        if self.spectrum is None:
            return self.codec
        # All spectra, as its bins and directions have a closed form.
        return LearnedRecipe(
            kind="spectrum-codec", config=self.spectrum, samples=10**9, held_out=10**9
        )

    @property
    def sources(self) -> tuple[DataRecipe, ...]:
        """All sources of objects."""
        return self.data or (DataRecipe(dataset=self.dataset),)
