"""Draw the tokens of targets for some objects, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.model.generation.context import Read, read
from omnisky.model.generation.sampling import Branch, Sampling, draw
from omnisky.model.transformer import Transformer

__all__ = ["Drawn", "Sampler", "Target", "most_confident"]

# Random numbers of one object and purpose; no target needs as many.
_STRIDE = 1 << 40


@dataclass(frozen=True)
class Target:
    """A modality to draw.

    Parameters
    ----------
    name : str
        Its name in the network.
    number : int
        Its place among the targets.
    codec : Codec, optional
        Says which tokens exist, given others; without it, all do.
    """

    name: str
    number: int
    codec: Codec | None

    def possible(
        self, logits: Float[Tensor, "row id"], token: Int[Tensor, " row"]
    ) -> Float[Tensor, "row id"]:
        """Return logits of what the codec can decode: a network may have more ids (AION-1 does)."""
        if self.codec is None:
            return logits
        sizes = [group.vocab_size for group in self.codec.groups for _ in range(group.n_tokens)]
        size = torch.tensor(sizes, device=token.device)[token]
        logits = logits[:, : int(size.max())]
        if int(size.min()) >= logits.shape[1]:
            return logits
        ids = torch.arange(logits.shape[1], device=token.device)
        return logits.masked_fill(ids >= size[:, None], -torch.inf)


@dataclass(frozen=True)
class Drawn:
    """Hold what was drawn of one target, for B objects and S samples of each.

    Parameters
    ----------
    ids, there : Tensor, shape (B, S, token)
        Ids, and which exist.
    chances : FloatTensor, shape (B, id), optional
        Probabilities of the ids of the token drawn first, the mean over samples, if it was drawn
        alone.
    """

    ids: Int[Tensor, "B S token"]
    there: Bool[Tensor, "B S token"]
    chances: Float[Tensor, "B id"] | None


class Sampler:
    """Draw targets for B objects, S samples of each, each target given all before.

    Parameters
    ----------
    sampling : Sampling
        How.
    branches : list of (Branch, Read)
        What is mixed, and what was read of the objects in each.
    table : tuple of Tensor, shape (B, T)
        Ids, and which are known.
    objects : array of int, shape (B,)
        Numbers of the objects, for their random numbers.
    samples : slice
        Which samples of each object.
    """

    def __init__(
        self,
        sampling: Sampling,
        branches: list[tuple[Branch, Read]],
        table: tuple[Tensor, Tensor],
        objects: np.ndarray,
        samples: slice,
    ) -> None:
        self.sampling, self.branches = sampling, branches
        self.objects, self.samples = objects, samples
        count = samples.stop - samples.start
        self.ids, self.known = (t[:, None].repeat(1, count, 1) for t in table)
        self.fresh = sampling.context == "fresh"
        # Until something is drawn, all samples of an object are alike.
        self.alike = True

    @property
    def network(self) -> Transformer:
        """The network that draws."""
        return self.branches[0][1].network

    @torch.no_grad()
    def draw(self, target: Target, *, last: bool) -> Drawn:
        """Draw one target.

        Parameters
        ----------
        target : Target
            What.
        last : bool
            Whether nothing will be drawn after it.
        """
        slots = self.network.slots_of(target.name)
        here = torch.ones_like(self.known[..., slots])
        first = None
        remaining, noise = self._order(target), self._noise(target, 1, len(slots))
        for step, (count, every) in enumerate(self._steps(target)):
            asked = remaining if every else remaining[..., :count]
            there = here.gather(2, asked)
            if every:  # a place may be asked for again, and then draws anew
                noise = self._noise(target, 1 + step, len(slots))
            ids, confidence, chances = self._ask(target, asked, there, noise.gather(2, asked))
            # The first token of a scalar is its bin; a second one only the place in it.
            first = chances if step == 0 else first
            chosen = most_confident(confidence, count) if every else slice(None)
            kept, ids = _pick(asked, chosen), _pick(ids, chosen)
            remaining = _without(remaining, kept) if every else remaining[..., count:]
            self.ids.scatter_(2, slots[kept], ids)
            if target.codec is not None:
                here = _existing(target.codec, self.ids[..., slots])
            # What the first tokens say about how many others there are is believed.
            self.known.scatter_(2, slots[kept], here.gather(2, kept))
            if remaining.shape[2] or not last:
                self._note(target, kept, here.gather(2, kept))
        return Drawn(self.ids[..., slots], self.known[..., slots], first)

    def _steps(self, target: Target) -> Iterator[tuple[int, bool]]:
        """Yield how many tokens each step keeps, and whether it asks for all that are left."""
        listed = self.network.config.modalities
        groups = next(m.groups for m in listed if m.name == target.name)
        count = sum(group.n_tokens for group in groups)
        every = self.sampling.method == "maskgit"
        alone = groups[0].n_tokens == 1 or len(groups) == 1
        if every and count > 1 and groups[0].kind == "ordinal" and alone:
            # A single leading number may say how many others there are, or be the bin of a scalar.
            yield 1, False
            count -= 1
        for size in self.sampling.counts(count):
            yield size, every

    def _order(self, target: Target) -> Int[Tensor, "B S token"]:
        """Return the order of a target's tokens: ordinal ones as they come, codes at random."""
        listed = self.network.config.modalities
        groups = next(m.groups for m in listed if m.name == target.name)
        sizes = [group.n_tokens for group in groups]
        shuffled = self.sampling.method == "roar" and any(g.kind == "code" for g in groups)
        if not shuffled or sizes == [1]:
            order = torch.arange(sum(sizes), device=self.ids.device)
            return order.expand(*self.ids.shape[:2], -1)
        keys = self._noise(target, 0, sum(sizes))
        first = 0
        for number, group in enumerate(groups):
            part = slice(first, first + group.n_tokens)
            if group.kind == "ordinal":
                keys[..., part] = torch.linspace(0, 0.5, group.n_tokens, device=keys.device)
            keys[..., part] += 2 * number
            first += group.n_tokens
        return keys.argsort(2)

    def _noise(self, target: Target, purpose: int, width: int) -> Float[Tensor, "B S token"]:
        """Return uniform numbers that depend on seed, target, purpose, object and sample only."""
        shape = (self.sampling.n_samples, width)
        key = np.array([self.sampling.seed, target.number], dtype=np.uint64)
        source = np.random.Philox(key=key, counter=np.array([0, 0, purpose, 0], dtype=np.uint64))
        generator, at = np.random.Generator(source), 0
        found = np.empty((len(self.objects), *shape), dtype=np.float32)
        for row, number in zip(found, self.objects.tolist(), strict=True):
            source.advance(number * _STRIDE - at)
            # float32 would round some numbers up to 1.
            row[:] = np.minimum(generator.random(shape), 1 - 2**-24)
            at = number * _STRIDE + -(-row.size // 4)
        return torch.from_numpy(found[:, self.samples]).to(self.ids.device)

    def _ask(
        self, target: Target, asked: Tensor, there: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw ids for places (B, S, M) of a target.

        Returns ids and confidences of the same shape (logarithm of how many times likelier than
        one of all ids; -inf where there is no token), and the mean probabilities (B, id) over
        samples if one place was asked for.
        """
        objects, samples, places = asked.shape
        # While all samples are alike, one row a place serves the draws of all of them.
        shared = self.alike and bool((asked == asked[:, :1]).all())
        if shared:
            asked, there, noise = asked[:, :1], there[:, :1], noise.transpose(1, 2)
        uniform = noise.reshape(asked.numel(), -1)
        ids = torch.zeros(uniform.shape, dtype=torch.long, device=asked.device)
        confidence = torch.full(uniform.shape, -torch.inf, device=asked.device)
        rows = there.flatten().nonzero()[:, 0]
        mean = None
        for part, logits in self._logits(target, asked, there, rows) if len(rows) else ():
            here = rows[part]
            ids[here], chances = draw(logits, uniform[here], self.sampling)
            confidence[here] = chances.gather(1, ids[here]).log() + np.log(logits.shape[1])
            if places == 1 and len(here) == asked.numel():
                mean = torch.empty_like(chances)
                mean[here] = chances
                mean = mean.unflatten(0, (objects, -1)).mean(1)
        if shared:
            shape = (objects, places, samples)
            return ids.reshape(shape).mT, confidence.reshape(shape).mT, mean
        shape = (objects, samples, places)
        return ids.reshape(shape), confidence.reshape(shape), mean

    def _logits(
        self, target: Target, asked: Tensor, there: Tensor, rows: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each token group, which of the rows are of it and their mixed logits."""
        slots = self.network.slots_of(target.name)
        divided = self.network.logits.divided(slots[asked.flatten()[rows]])
        parts: list[tuple[Tensor, Tensor]] = []
        for branch, kept in self._readings():
            anew = self.fresh and not self.alike
            shape = (-1, 1, asked.shape[2]) if anew else asked.shape
            decoded = kept.ask(slots[asked].reshape(shape), there.reshape(shape))
            flat = decoded.flatten(0, 2)[rows].to(self.network.mask_token.dtype)
            found = self.network.logits(flat, divided)
            if parts:
                pairs = zip(parts, found, strict=True)
                parts = [(p, old + branch.weight * new) for (p, old), (_, _, new) in pairs]
            else:
                parts = [(p, branch.weight * new) for _, p, new in found]
        token = asked.flatten()[rows]
        yield from ((part, target.possible(logits, token[part])) for part, logits in parts)

    def _readings(self) -> Iterator[tuple[Branch, Read]]:
        """Yield each branch with what was read; anew if something was drawn since."""
        if self.alike or not self.fresh:
            yield from self.branches
            return
        ids, known = self.ids.flatten(0, 1), self.known.flatten(0, 1)
        for branch, kept in self.branches:
            visible = known.clone()
            for name in branch.hidden:
                visible[:, self.network.slots_of(name)] = False
            yield branch, read(self.network, kept.place, ids, visible)

    def _note(self, target: Target, kept: Tensor, there: Tensor) -> None:
        """Remember that tokens were drawn, and append them to what was read if so asked."""
        self.alike = False
        if self.fresh or not bool(there.any()):
            return
        slots = self.network.slots_of(target.name)
        shown = self.ids[..., slots].gather(2, kept).flatten(), slots[kept].flatten()
        vectors = self.network.embeddings(*shown).unflatten(0, kept.shape)
        self.branches = [
            (branch, so_far.append(vectors, slots[kept], there)) for branch, so_far in self.branches
        ]


def most_confident(confidence: Float[Tensor, "B S M"], count: int) -> Int[Tensor, "B S count"]:
    """Return which places to keep: the most confident ones, in order of place."""
    return confidence.topk(count, dim=2).indices.sort(2).values


def _pick(x: Tensor, chosen: Tensor | slice) -> Tensor:
    return x[..., chosen] if isinstance(chosen, slice) else x.gather(2, chosen)


def _without(
    remaining: Int[Tensor, "B S M"], kept: Int[Tensor, "B S n"]
) -> Int[Tensor, "B S left"]:
    """Return the places that were not kept; each sample keeps equally many."""
    left = ~(remaining[..., None] == kept[:, :, None]).any(3)
    return remaining[left].reshape(*remaining.shape[:2], -1)


def _existing(codec: Codec, ids: Int[Tensor, "B S token"]) -> Bool[Tensor, "B S token"]:
    return codec.existing(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
