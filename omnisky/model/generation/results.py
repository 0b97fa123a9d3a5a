"""What generation returns: posteriors of scalars, samples of everything else, and the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Measurement, Scalar, Spectrum

__all__ = [
    "Generation",
    "MeasurementSamples",
    "Result",
    "ScalarPosterior",
    "SpectrumSamples",
    "result_of",
]


@dataclass(frozen=True)
class ScalarPosterior:
    """Hold the posterior of a scalar for each object.

    Parameters
    ----------
    values : array, shape (bin,)
        What each bin stands for, in the modality's unit, increasing.
    probabilities : array, shape (object, bin)
        Probability of each bin.
    samples : array, shape (sample, object)
        Draws; when several targets are generated they belong to the same joint samples.
    """

    values: np.ndarray
    probabilities: np.ndarray
    samples: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Posterior mean, shape (object,)."""
        return self.probabilities @ self.values

    @property
    def std(self) -> np.ndarray:
        """Posterior standard deviation, shape (object,)."""
        variance = self.probabilities @ self.values**2 - self.mean**2
        return np.sqrt(np.maximum(variance, 0))

    @property
    def below(self) -> np.ndarray:
        """Probability up to the middle of each bin, shape (object, bin)."""
        return np.cumsum(self.probabilities, axis=1) - self.probabilities / 2

    def quantile(self, level: float | Sequence[float]) -> np.ndarray:
        """Return posterior quantiles.

        Parameters
        ----------
        level : float or sequence of float
            Between 0 and 1.

        Returns
        -------
        array, shape (object,) or (level, object)
            In the modality's unit.

        Raises
        ------
        ValueError
            If a level is not a number between 0 and 1.
        """
        try:
            levels = np.asarray(level, dtype=np.float64)
        except (TypeError, ValueError):
            levels = np.array(np.nan)
        if levels.ndim > 1 or not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(
                f"quantile takes a level between 0 and 1, or a list of levels; found {level!r}"
            )
        rows = [np.interp(levels, row, self.values) for row in self.below]
        return np.array(rows).T.reshape(*levels.shape, len(self.below))


@dataclass(frozen=True)
class SpectrumSamples:
    """Hold sampled spectra.

    Parameters
    ----------
    samples : array, shape (sample, object, pixel)
        Flux density in the modality's unit.
    wavelength : array, shape (pixel,)
        Pixel centres in nm.
    """

    samples: np.ndarray
    wavelength: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over samples, shape (object, pixel)."""
        return self.samples.mean(axis=0)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation over samples, shape (object, pixel)."""
        return self.samples.std(axis=0)


@dataclass(frozen=True)
class MeasurementSamples:
    """Hold samples of measurements of another kind: images, maps, catalogues, coefficients.

    A sequence: item s is sample s, a measurement with a row an object.

    Parameters
    ----------
    measured : Measurement
        All samples, sample after sample.
    n_samples : int
        Number of samples.
    """

    measured: Measurement
    n_samples: int

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, sample: int) -> Any:
        if not -self.n_samples <= sample < self.n_samples:
            raise IndexError(f"no sample {sample}; there are {self.n_samples}")
        n_objects = len(self.measured) // self.n_samples
        start = sample % self.n_samples * n_objects
        return self.measured[start : start + n_objects]


Result: TypeAlias = ScalarPosterior | SpectrumSamples | MeasurementSamples


class Generation(Mapping[str, Any]):
    """Hold what was generated, by target modality, and the sampled tokens.

    Parameters
    ----------
    results : mapping
        `ScalarPosterior`, `SpectrumSamples` or `MeasurementSamples` by modality; targets that the
        model has no codec of are there as tokens only.
    tokens : Tokens
        Sampled tokens, rows ordered sample after sample: row ``s * n_objects + o``.
    """

    def __init__(self, results: Mapping[str, Result], tokens: Tokens) -> None:
        self._results = dict(results)
        self.tokens = tokens

    # Any, since the caller knows whether it asked for a scalar or a spectrum.
    def __getitem__(self, name: str) -> Any:
        if name in self.tokens and name not in self._results:
            raise KeyError(f"the model has no codec of {name}: its samples are in .tokens only")
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)


def result_of(
    codec: Codec,
    ids: Int[Tensor, "row token"],
    mask: Bool[Tensor, "row token"],
    chances: Float[Tensor, "object id"] | None,
    n_samples: int,
) -> Result:
    """Return what sampled tokens stand for.

    Parameters
    ----------
    codec : Codec
        Of the target.
    ids, mask : Tensor, shape (row, token)
        Sampled ids and which exist; rows sample after sample.
    chances : FloatTensor, shape (object, id), optional
        Probabilities of the ids of a scalar, the mean over its samples.
    n_samples : int
        Samples an object.
    """
    measured = codec.decode(ids, mask)
    n_objects = len(ids) // n_samples
    if isinstance(measured, Spectrum):
        samples = measured.flux.reshape(n_samples, n_objects, -1)
        return SpectrumSamples(samples, measured.wavelength)
    values = codec.values()
    if not isinstance(measured, Scalar) or chances is None or values is None:
        return MeasurementSamples(measured, n_samples)
    samples = measured.value.reshape(n_samples, n_objects)
    return ScalarPosterior(values[0].numpy(), chances.double().numpy(), samples)
