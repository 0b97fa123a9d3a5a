"""Objects that were read once and can be asked for one target after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import UnknownModalityError
from omnisky.model.generation.context import Read, read
from omnisky.model.generation.results import Generation, Result, result_of
from omnisky.model.generation.sampler import Drawn, Sampler, Target
from omnisky.model.generation.sampling import Branch, Sampling, SamplingOptions

if TYPE_CHECKING:
    from omnisky.model.model import Model

__all__ = ["Reading"]

# Numbers of one table of vectors (row, token, D) that are worked on at a time.
_NUMBERS = 1 << 22


class Reading:
    """Objects as the encoder read them, for any number of targets.

    Each target is drawn given what was read, not given targets asked for in other calls. What was
    read is kept: a few kB a token for a small network, 150 kB a token for one of Base size.

    Parameters
    ----------
    model : Model
        A pretrained model.
    given : Tokens
        What is known; objects may miss modalities, but not all of them.
    keep : bool
        Whether to keep what was read; otherwise each call reads again, in little memory.
    first : int
        Number of the first object, for its random numbers; that of a part of a table.

    Raises
    ------
    UnknownModalityError
        If the model does not know a modality.
    ValueError
        If an object has no tokens at all.
    """

    def __init__(self, model: Model, given: Tokens, *, keep: bool = True, first: int = 0) -> None:
        self._model, self._keep, self._first = model, keep, first
        self.given = tuple(given)
        self._ids, self._known = model.network.lay_out(given)
        count = self._known.sum(1)
        if not len(count):
            raise ValueError("there are no objects to read; give at least one")
        if not bool(count.all()):
            raise ValueError(
                f"{int((count == 0).sum())} objects have no token of any modality given; the "
                f"first is object {int((count == 0).nonzero()[0])}. Leave them out"
            )
        with torch.no_grad():
            self._place = model.network.place_vectors()
        self._blocks = list(self._grouped(count.cpu()))
        self._kept: dict[tuple[int, tuple[str, ...], bool], Read] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def generate(self, target: str | Sequence[str], **how: Unpack[SamplingOptions]) -> Generation:
        """Sample targets, each given what was read and the targets before it.

        Parameters
        ----------
        target : str or sequence of str
            What to sample, in this order.
        **how
            Fields of `Sampling`.

        Returns
        -------
        Generation
            By target: posterior and samples of scalars, sampled spectra, samples of others.

        Raises
        ------
        UnknownModalityError
            If the model does not know a target.
        ValueError
            If a target is also given or asked for twice, or an option is out of range, says nothing
            together with another, or is about a modality that is not given.
        TypeError
            If there is no such option.
        """
        sampling = Sampling.of(how)
        names = [target] if isinstance(target, str) else list(target)
        asked = self._check(names)
        branches = sampling.branches(self.given)
        drawn: list[list[tuple[Tensor, slice, Drawn]]] = [[] for _ in asked]
        for number, objects in enumerate(self._blocks):
            held = [(b, self._read(number, b, sampling)) for b in branches]
            for rows, samples in self._pieces(len(objects), asked, sampling.n_samples):
                here = objects[rows]
                parts = [(branch, kept.of(rows)) for branch, kept in held]
                table = (self._ids[here], self._known[here])
                sampler = Sampler(sampling, parts, table, here.numpy() + self._first, samples)
                for one, found in zip(asked, drawn, strict=True):
                    found.append((here, samples, sampler.draw(one, last=one is asked[-1])))
        return self._assembled(names, asked, drawn, sampling.n_samples)

    def _read(self, number: int, branch: Branch, sampling: Sampling) -> Read:
        """Return what is read of a block of objects in a branch, once if it is to be kept."""
        append = sampling.context == "append"
        key = (number, branch.hidden, append)
        # Reading for appending keeps all that is needed without.
        for known in (key, (*key[:2], True)):
            if known in self._kept:
                return self._kept[known]
        objects = self._blocks[number]
        visible = self._known[objects].clone()
        for name in branch.hidden:
            visible[:, self._model.network.slots_of(name)] = False
        with torch.no_grad():
            found = read(
                self._model.network, self._place, self._ids[objects], visible, append=append
            )
        if self._keep:
            self._kept[key] = found
        return found

    def _grouped(self, count: Tensor) -> Iterator[Tensor]:
        """Yield objects of equally many tokens, few enough to be worked on together."""
        order = count.argsort(stable=True)
        lengths, sizes = count[order].unique_consecutive(return_counts=True)
        for length, group in zip(lengths.tolist(), order.split(sizes.tolist()), strict=True):
            yield from group.split(max(1, _NUMBERS // (length * self._model.config.dim)))

    def _pieces(
        self, objects: int, targets: list[Target], samples: int
    ) -> Iterator[tuple[slice, slice]]:
        """Yield slices of objects, and of samples, that are few enough to draw together."""
        network = self._model.network
        width = sum(len(network.slots_of(t.name)) for t in targets) + int(self._known.sum(1).max())
        rows = max(1, _NUMBERS // (width * self._model.config.dim))
        some, each = max(1, rows // samples), min(samples, rows)
        for first in range(0, objects, some):
            for start in range(0, samples, each):
                yield (
                    slice(first, min(first + some, objects)),
                    slice(start, min(start + each, samples)),
                )

    def _assembled(
        self,
        names: list[str],
        asked: list[Target],
        drawn: list[list[tuple[Tensor, slice, Drawn]]],
        n_samples: int,
    ) -> Generation:
        results: dict[str, Result] = {}
        made, there = {}, {}
        for name, target, parts in zip(names, asked, drawn, strict=True):
            width = len(self._model.network.slots_of(target.name))
            ids = torch.zeros(n_samples, len(self), width, dtype=torch.long)
            mask = torch.zeros(ids.shape, dtype=torch.bool)
            chances = None
            for objects, samples, found in parts:
                ids[samples, objects] = found.ids.transpose(0, 1).cpu()
                mask[samples, objects] = found.there.transpose(0, 1).cpu()
                if found.chances is not None:
                    if chances is None:
                        chances = torch.zeros(len(self), found.chances.shape[1])
                    share = (samples.stop - samples.start) / n_samples
                    chances[objects] += share * found.chances.cpu()
            made[name], there[name] = ids.flatten(0, 1), mask.flatten(0, 1)
            if target.codec is not None:
                results[name] = result_of(target.codec, made[name], there[name], chances, n_samples)
        return Generation(results, Tokens(made, there))

    def _check(self, names: list[str]) -> list[Target]:
        """Return the targets of these names."""
        ours = self._model.config.by_name
        unknown = [name for name in names if name not in ours]
        if unknown or not names:
            raise UnknownModalityError(
                f"cannot generate {', '.join(unknown) or 'nothing'}; this model knows "
                f"{', '.join(ours)}"
            )
        if ordered := [name for name in names if len(ours[name].grid) == 1]:
            raise ValueError(
                f"{', '.join(ordered)} in AION-1's layout cannot be generated: no token of it says "
                "how many sources there are, and the order in which the released weights draw and "
                "end it was not published. Train a model in the layout 'own', whose catalogues "
                "count their sources"
            )
        chosen = [ours[name].name for name in names]
        if {ours[name].name for name in self.given} & set(chosen) or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"targets must differ from each other and from what is given; found targets "
                f"{', '.join(names)}, given {', '.join(self.given)}. Use drop(...) on what is given"
            )
        codecs: dict[str, Codec] = self._model.codecs
        return [
            Target(ours[name].name, number, codecs.get(name)) for number, name in enumerate(names)
        ]
