"""Any-to-any generation: sample modalities one after the other, each given all that is known.

A scalar needs one decoder step and comes with its whole posterior. A modality of many tokens is
sampled in a few steps, ordinal tokens first and in their order (the codec puts the ones that carry
most variance first), then codes in random order; each step sees what was sampled before, and the
steps grow, so that the first and most informative tokens are drawn one by one. Reading the encoder
anew at each step is what makes the tokens of one sample agree with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Measurement, Scalar, Spectrum, UnknownModalityError
from omnisky.model.transformer import Selection, Transformer

if TYPE_CHECKING:
    from omnisky.model.model import Model

__all__ = ["Generation", "MeasurementSamples", "ScalarPosterior", "SpectrumSamples", "generate"]

_BATCH = 1024


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

    def quantile(self, level: float) -> np.ndarray:
        """Return the posterior quantile of a level between 0 and 1, shape (object,)."""
        if not 0 <= level <= 1:
            raise ValueError(f"a quantile level lies between 0 and 1; found {level}")
        # The cumulative probability up to the middle of each bin, interpolated linearly.
        middle = np.cumsum(self.probabilities, axis=1) - self.probabilities / 2
        return np.array([np.interp(level, row, self.values) for row in middle])


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


_Result: TypeAlias = ScalarPosterior | SpectrumSamples | MeasurementSamples


class Generation(Mapping[str, Any]):
    """Hold what was generated, by target modality, and the sampled tokens.

    Parameters
    ----------
    results : mapping
        `ScalarPosterior`, `SpectrumSamples` or `MeasurementSamples` by modality.
    tokens : Tokens
        Sampled tokens, rows ordered sample after sample: row ``s * n_objects + o``.
    """

    def __init__(self, results: Mapping[str, _Result], tokens: Tokens) -> None:
        self._results = dict(results)
        self.tokens = tokens

    # Any, since the caller knows whether it asked for a scalar or a spectrum.
    def __getitem__(self, name: str) -> Any:
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)


@dataclass(frozen=True)
class _Draws:
    """How to draw: softmax temperature and source of randomness."""

    temperature: float
    generator: torch.Generator

    def draw(self, probabilities: Float[Tensor, "row id"]) -> Int[Tensor, " row"]:
        if self.temperature == 0:
            return probabilities.argmax(1)
        return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]

    def probabilities(self, logits: Float[Tensor, "row id"]) -> Float[Tensor, "row id"]:
        return torch.softmax(logits.float() / (self.temperature or 1.0), dim=1)


@torch.no_grad()
def generate(
    model: Model,
    given: Tokens,
    targets: Sequence[str],
    n_samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    steps: int = 12,
) -> Generation:
    """Sample target modalities given the tokens of others.

    Parameters
    ----------
    model : Model
        A pretrained model that knows all modalities involved.
    given : Tokens
        What is known; objects may miss modalities, but not all of them.
    targets : sequence of str
        What to sample, in this order: each is sampled given those before it.
    n_samples : int
        Joint samples an object.
    temperature : float
        1 samples the model's distribution, less concentrates it, 0 takes the most probable.
    seed : int
        Seed of the draws.
    steps : int
        Decoder steps for a modality of many tokens; more is slower and more coherent.

    Returns
    -------
    Generation
        By target: posterior and samples of scalars, sampled spectra of spectra, samples of others.

    Raises
    ------
    UnknownModalityError
        If the model does not know a modality.
    ValueError
        If a target is also given or asked for twice, an object has no tokens at all, or a number
        is out of range.
    """
    _check(model, given, targets, n_samples, temperature, steps)
    network = model.network
    draws = _Draws(temperature, torch.Generator().manual_seed(seed))
    ids, known = network.lay_out(given)
    ids, known = ids.repeat(n_samples, 1), known.repeat(n_samples, 1)
    results: dict[str, _Result] = {}
    first = True
    for target in targets:
        slots = (network.slot_modality == network.names.index(target)).nonzero()[:, 0]
        # Before anything is sampled all repeats are alike: compute one of them.
        share = n_samples if first and len(slots) == 1 else 1
        codec = model.tokenizer.codecs[target]
        chances = _sample_modality(network, codec, (ids, known), slots, draws, share, steps)
        results[target] = _result(codec, ids[:, slots], known[:, slots], chances, n_samples)
        first = False
    where = {t: network.slot_modality == network.names.index(t) for t in targets}
    made = {t: ids[:, slots] for t, slots in where.items()}
    return Generation(results, Tokens(made, {t: known[:, s] for t, s in where.items()}))


def _sample_modality(
    network: Transformer,
    codec: Codec,
    table: tuple[Tensor, Tensor],
    slots: Tensor,
    draws: _Draws,
    share: int,
    steps: int,
) -> Tensor | None:
    """Write sampled ids into their slots and which there are into the mask; both are `table`.

    Returns the probabilities of a one-token modality. What the first tokens say about how many
    others there are is believed: the rest is neither sampled nor shown.
    """
    ids, known = table
    rows = len(ids) // share
    chances = []
    here = torch.ones_like(known)
    for chunk in _schedule(network, slots, steps, draws.generator):
        for start in range(0, rows, _BATCH):
            part = slice(start, min(start + _BATCH, rows))
            asked = here[part][:, chunk]
            for chance, row, column in _probabilities(
                network, ids[part], known[part], Selection(chunk.expand(asked.shape), asked), draws
            ):
                wanted = torch.cat([row + start + s * rows for s in range(share)])
                ids[wanted, column] = draws.draw(chance.repeat(share, 1))
                if len(slots) == 1:
                    chances.append(chance)
        here[:, slots] = codec.existing(ids[:, slots])
        known[:, chunk] = here[:, chunk]
    return torch.cat(chances) if chances else None


def _probabilities(
    network: Transformer, ids: Tensor, known: Tensor, asked: Selection, draws: _Draws
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield for each slot asked for: probabilities (row, id), the rows, and the slot's number."""
    if not asked.mask.any():
        return
    slots = known.any(0).nonzero()[:, 0]
    visible = Selection(slots.expand(len(ids), -1), known[:, slots])
    decoded = network.decode_slots(network.encode_slots(ids, visible), asked)
    width = asked.slots.shape[1]
    for _, rows, logits in network.predict(decoded, asked):
        column = rows % width
        for c in column.unique().tolist():
            here = column == c
            yield draws.probabilities(logits[here]), rows[here] // width, int(asked.slots[0, c])


def _schedule(
    network: Transformer, slots: Tensor, steps: int, generator: torch.Generator
) -> list[Tensor]:
    """Split the slots of a modality into steps that grow geometrically."""
    modality = network.config.modalities[int(network.slot_modality[slots[0]])]
    order, first = [], 0
    for group in modality.groups:
        part = slots[first : first + group.n_tokens]
        if group.kind == "code":
            part = part[torch.randperm(len(part), generator=generator)]
        order.append(part)
        first += group.n_tokens
    ordered = torch.cat(order)
    steps = min(steps, len(ordered))
    edges = np.geomspace(1, len(ordered), steps).round().astype(int)
    edges = np.maximum(edges, np.arange(1, steps + 1))
    edges[-1] = len(ordered)  # a single step would end at 1
    return [ordered[a:b] for a, b in zip([0, *edges[:-1]], edges, strict=True)]


def _result(
    codec: Codec, ids: Tensor, mask: Tensor, chances: Tensor | None, n_samples: int
) -> _Result:
    measured = codec.decode(ids, mask)
    n_objects = len(ids) // n_samples
    if isinstance(measured, Spectrum):
        samples = measured.flux.reshape(n_samples, n_objects, -1)
        return SpectrumSamples(samples, measured.wavelength)
    if not isinstance(measured, Scalar):
        return MeasurementSamples(measured, n_samples)
    assert chances is not None
    # Conditioned on other samples, the posterior is the mean over the joint samples.
    probabilities = chances.reshape(-1, n_objects, chances.shape[1]).double().mean(0)
    values = codec.values()
    assert values is not None
    return ScalarPosterior(
        values[0].numpy(),
        probabilities.numpy(),
        measured.value.reshape(n_samples, n_objects),
    )


def _check(
    model: Model,
    given: Tokens,
    targets: Sequence[str],
    n_samples: int,
    temperature: float,
    steps: int,
) -> None:
    names = model.network.names
    unknown = [t for t in targets if t not in names]
    if unknown or not targets:
        raise UnknownModalityError(
            f"cannot generate {', '.join(unknown) or 'nothing'}; this model knows "
            f"{', '.join(names)}"
        )
    ordered = [m.name for m in model.config.modalities if len(m.grid) == 1 and m.name in targets]
    if ordered:
        raise ValueError(
            f"{', '.join(ordered)} of AION-1 cannot be generated: the order of its special tokens "
            "was not published"
        )
    both = [t for t in targets if t in given]
    if both or len(set(targets)) < len(targets):
        raise ValueError(
            f"targets must differ from each other and from what is given; found targets "
            f"{', '.join(targets)}, given {', '.join(given)}. Use drop(...) on what is given"
        )
    if n_samples < 1 or steps < 1 or temperature < 0:
        raise ValueError(
            "n_samples and steps must be at least 1 and temperature at least 0; found "
            f"{n_samples}, {steps}, {temperature}"
        )
    empty = ~torch.stack([m.any(1) for m in given.mask.values()]).any(0)
    if empty.any():
        raise ValueError(
            f"{int(empty.sum())} objects have no token of any modality given; the first is object "
            f"{int(empty.nonzero()[0])}. Leave them out"
        )
