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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Scalar, Spectrum, UnknownModalityError
from omnisky.model.transformer import Selection, Transformer

if TYPE_CHECKING:
    from omnisky.model.model import Model

__all__ = ["Generation", "ScalarPosterior", "SpectrumSamples", "generate"]

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


class Generation(Mapping[str, Any]):
    """Hold what was generated, by target modality, and the sampled tokens.

    Parameters
    ----------
    results : mapping
        `ScalarPosterior` or `SpectrumSamples` by modality.
    tokens : Tokens
        Sampled tokens, rows ordered sample after sample: row ``s * n_objects + o``.
    """

    def __init__(
        self, results: Mapping[str, ScalarPosterior | SpectrumSamples], tokens: Tokens
    ) -> None:
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
        By target: posterior and samples of scalars, sampled spectra of spectra.

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
    results: dict[str, ScalarPosterior | SpectrumSamples] = {}
    first = True
    for target in targets:
        slots = (network.slot_modality == network.names.index(target)).nonzero()[:, 0]
        # Before anything is sampled all repeats are alike: compute one of them.
        share = n_samples if first and len(slots) == 1 else 1
        chances = _sample_modality(network, ids, known, slots, draws, share, steps)
        known[:, slots] = True
        results[target] = _result(model, target, ids[:, slots], chances, n_samples)
        first = False
    where = {t: network.slot_modality == network.names.index(t) for t in targets}
    return Generation(results, Tokens({t: ids[:, slots] for t, slots in where.items()}))


def _sample_modality(
    network: Transformer,
    ids: Tensor,
    known: Tensor,
    slots: Tensor,
    draws: _Draws,
    share: int,
    steps: int,
) -> Tensor | None:
    """Write sampled ids into their slots; return the probabilities of a one-token modality."""
    known = known.clone()
    chances = None
    for chunk in _schedule(network, slots, steps, draws.generator):
        rows = len(ids) // share
        for start in range(0, rows, _BATCH):
            part = slice(start, min(start + _BATCH, rows))
            chance, position = _probabilities(network, ids[part], known[part], chunk, draws)
            for p, column in zip(chance, position, strict=True):
                repeated = p.repeat(share, 1)
                wanted = torch.cat(
                    [torch.arange(part.start, part.stop) + s * rows for s in range(share)]
                )
                ids[wanted, column] = draws.draw(repeated)
            if len(slots) == 1:
                chances = chance[0] if chances is None else torch.cat([chances, chance[0]])
        known[:, chunk] = True
    return chances


def _probabilities(
    network: Transformer, ids: Tensor, known: Tensor, chunk: Tensor, draws: _Draws
) -> tuple[list[Tensor], list[int]]:
    """Return probabilities (object, id) for each slot of the chunk, and the slots' numbers."""
    slots = known.any(0).nonzero()[:, 0]
    visible = Selection(slots.expand(len(ids), -1), known[:, slots])
    asked = Selection(
        chunk.expand(len(ids), -1), torch.ones(len(ids), len(chunk), dtype=torch.bool)
    )
    chances, positions = [], []
    for _, rows, logits in network.predict(
        network.decode_slots(network.encode_slots(ids, visible), asked), asked
    ):
        column = rows % len(chunk)
        for c in column.unique().tolist():
            # Rows of one column come in object order.
            chances.append(draws.probabilities(logits[column == c]))
            positions.append(int(chunk[c]))
    return chances, positions


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
    return [ordered[a:b] for a, b in zip([0, *edges[:-1]], edges, strict=True)]


def _result(
    model: Model, target: str, ids: Tensor, chances: Tensor | None, n_samples: int
) -> ScalarPosterior | SpectrumSamples:
    codec = model.tokenizer.codecs[target]
    measured = codec.decode(ids)
    n_objects = len(ids) // n_samples
    if isinstance(measured, Spectrum):
        samples = measured.flux.reshape(n_samples, n_objects, -1)
        return SpectrumSamples(samples, measured.wavelength)
    assert isinstance(measured, Scalar)
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
