"""The pretrained model as users meet it: tokenizer and transformer together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.codecs.loading import fetch, is_hub_id
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Observations
from omnisky.model.compact import Stored, compact, restored
from omnisky.model.config import ModelConfig
from omnisky.model.embeddings import set_values
from omnisky.model.packed import encode_packed
from omnisky.model.training import new_network
from omnisky.model.transformer import Transformer
from omnisky.storage import CheckpointError, read_folder, write_folder

if TYPE_CHECKING:
    from omnisky.model.generation import Generation, Reading, SamplingOptions

__all__ = ["Embedding", "Model", "pretrained_folder", "shipped", "tokenize"]

_KIND = "model"


@dataclass(frozen=True)
class Embedding:
    """Hold one vector an object, or one a token.

    Parameters
    ----------
    vectors : array of float32, shape (object, dim) or (object, token, dim)
        Mean of the encoder outputs over the tokens the object has, or the outputs themselves; 0
        where there are none.
    valid : array of bool, shape (object,) or (object, token)
        False for objects without a single token, or for tokens an object lacks.
    slices : mapping of str to slice
        Where the tokens of each modality are; empty for one vector an object.
    """

    vectors: np.ndarray
    valid: np.ndarray
    slices: Mapping[str, slice] = field(default_factory=dict)


def shipped() -> dict[str, Path]:
    """Return the pretrained models inside the package, by name."""
    root = Path(str(files("omnisky"))) / "pretrained"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def pretrained_folder(name: str | os.PathLike, revision: str | None = None) -> Path:
    """Return the folder of a pretrained model: a name that ships, a path, or a hub id.

    Raises
    ------
    FileNotFoundError
        If it is none of them, or the hub cannot be reached.
    ValueError
        If a revision is given for a folder.
    """
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    if isinstance(name, str) and is_hub_id(name) and not Path(name).exists():
        return fetch(name, ["config.json", "*.safetensors", "codecs/*"], revision)
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for hub ids; {name} is a folder")
    if not Path(name).is_dir():
        raise FileNotFoundError(
            f"no pretrained model {str(name)!r}: it is neither a folder, nor a hub id "
            f"organisation/name, nor one of those that ship with omnisky "
            f"({', '.join(known) or 'none'})"
        )
    return Path(name)


class Model:
    """A tokenizer and an any-to-any transformer that belong together.

    Parameters
    ----------
    network : Transformer
        The transformer.
    tokenizer : Tokenizer, optional
        Codecs of its modalities. A modality without one is used by its tokens only.

    Raises
    ------
    ValueError
        If the tokenizer has a codec of a modality that the transformer does not know.
    """

    def __init__(self, network: Transformer, tokenizer: Tokenizer | None) -> None:
        known = {name for m in network.config.modalities for name in (m.name, *m.also)}
        if tokenizer is not None and (strange := sorted(set(tokenizer.codecs) - known)):
            raise ValueError(
                f"the tokenizer has codecs of {', '.join(strange)}, which the transformer does not "
                f"know; it knows {', '.join(sorted(known))}"
            )
        self.network, self._tokenizer = network, tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """Codecs of its modalities; raises `ValueError` if it came without any."""
        if self._tokenizer is None:
            raise ValueError(
                "this model came without codecs, so it takes tokens only; put AION-1's folder "
                "codecs/ beside its config.json, or tokenise with codecs loaded by themselves"
            )
        return self._tokenizer

    @property
    def codecs(self) -> dict[str, Codec]:
        """Codecs of its modalities, of those that have one."""
        return self._tokenizer.codecs if self._tokenizer else {}

    @property
    def config(self) -> ModelConfig:
        """Sizes and modalities."""
        return self.network.config

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.network.parameters())
        return f"Model({size / 1e6:.2f} M parameters; {', '.join(self.network.names)})"

    @classmethod
    def from_preset(cls, preset: str, tokenizer: Tokenizer | None = None) -> Model:
        """Return an untrained model of a named size.

        Under ``torch.device("meta")`` its weights take no memory; the training loop makes them
        where they are needed (`omnisky.model.training`).

        Parameters
        ----------
        preset : str
            One of `omnisky.model.config.PRESETS`.
        tokenizer : Tokenizer, optional
            Its modalities become the model's. Without it, the model has the 40 domains of AION-1,
            in its layout, and takes tokens only.

        Raises
        ------
        ValueError
            If the preset is unknown.
        """
        if tokenizer is None:
            from omnisky.model.aion import released_modalities

            config = ModelConfig.preset(preset, released_modalities())
            return cls(new_network(replace(config, positions="fixed")), None)
        config = ModelConfig.preset(preset).with_codecs(tokenizer.codecs)
        model = cls(new_network(config), tokenizer)
        with torch.device("cpu"):
            model._tell_values(tokenizer.codecs)
        return model

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        revision: str | None = None,
        compat: Literal["aion-0.0.2"] | None = None,
    ) -> Model:
        """Load a model that ships with omnisky, from a folder, or from the hub.

        Parameters
        ----------
        name : str or path
            A name that ships, a folder (ours or AION-1's), or a hub id ``organisation/name``.
        revision : str, optional
            Commit, tag or branch of a hub id.
        compat : {"aion-0.0.2"}, optional
            For AION-1: also reproduce what that release does wrong.

        Raises
        ------
        FileNotFoundError
            If there is no such model or a file is missing.
        CheckpointError
            If a file is damaged, pickled, of another version, or parts do not fit together.
        """
        from omnisky.model.aion import is_released, read_released, released_tokenizer

        folder = pretrained_folder(name, revision)
        if is_released(folder):
            return cls(read_released(folder, compat=compat), released_tokenizer(folder, compat))
        if compat is not None:
            raise ValueError(f"compat={compat!r} is for AION-1's checkpoints; {folder} is none")
        config, tensors = read_folder(folder, _KIND)
        tokenizer = Tokenizer.from_pretrained(folder / "codecs")
        try:
            network = Transformer(ModelConfig.from_dict(config))
            network.load_state_dict(restored(tensors))
            known = {name for m in network.config.modalities for name in (m.name, *m.also)}
            return cls(network.eval(), tokenizer.limited_to(known))
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{folder} does not fit a model: {error}") from error

    def save_pretrained(
        self, folder: str | os.PathLike, *, card: str = "", stored: Stored = "float32"
    ) -> Path:
        """Write ``config.json``, ``model.safetensors``, ``codecs/`` and a model card.

        Parameters
        ----------
        folder : path
            Folder to make; it must not exist.
        card : str
            Text of ``README.md``.
        stored : {"float32", "float16", "int8"}
            How the transformer's weights are stored, see `omnisky.model.compact`.
        """
        tensors = compact(self.network.state_dict(), stored)

        def extra(work: Path) -> None:
            self.tokenizer.save_pretrained(work / "codecs")
            if card:
                (work / "README.md").write_text(card)

        return write_folder(folder, _KIND, self.config.to_dict(), tensors, extra=extra)

    def extended(self, tokenizer: Tokenizer) -> Model:
        """Return this model with the modalities of a larger tokenizer appended, ids kept.

        Weights are shared by value: the new model's known part starts as a copy of this one's; the
        rest is freshly initialised.

        Raises
        ------
        ValueError
            If the tokenizer lacks a codec that this model has.
        """
        lacking = [name for name in self.codecs if name not in tokenizer.codecs]
        if lacking:
            raise ValueError(f"the larger tokenizer has no codec of {', '.join(lacking)}")
        network = Transformer(self.config.with_codecs(tokenizer.codecs))
        network.load_state_dict(self.network.state_dict(), strict=False)
        model = Model(network, tokenizer)
        new = {n: c for n, c in tokenizer.codecs.items() if n not in self.network.names}
        model._tell_values(new)
        return model

    def _tell_values(self, codecs: dict[str, Codec]) -> None:
        for name, codec in codecs.items():
            values = codec.values()
            if values is not None:
                set_values(self.network.embeddings[name], values)
                set_values(self.network.logits[name], values)

    def cast(self, precision: Literal["float32", "bfloat16"]) -> Model:
        """Compute in another number format from now on; returns itself.

        bfloat16 is faster where the processor computes in it, and rounds: weigh it against an
        embedding in float32 of some of your objects.
        """
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16'; found {precision!r}")
        self.network.cast(getattr(torch, precision))
        return self

    def compile(self) -> Model:
        """Fuse the blocks with torch.compile where `embed` takes means; returns itself.

        The first call of each number format may take a minute; other numbers of objects and tokens
        are not compiled again. On a CPU it hardly pays (perf/compiling.py).

        Raises
        ------
        OSError
            If this machine cannot compile.
        """
        self.network.set_compiled(True, self.network.slot_modality.device)
        return self

    def tokenize(self, observations: Observations) -> Tokens:
        """Return the tokens of observations; see `Tokenizer.encode`."""
        return self.tokenizer.encode(observations)

    def as_tokens(self, given: Tokens | Observations) -> Tokens:
        """Return tokens as they are, observations tokenised."""
        return given if isinstance(given, Tokens) else self.tokenize(given)

    @torch.no_grad()
    def embed(
        self,
        given: Tokens | Observations,
        pooling: Literal["mean", "none"] = "mean",
        batch_size: int = 512,
    ) -> Embedding:
        """Return the mean encoder output over all tokens an object has, or every token's.

        Under ``compat="aion-0.0.2"`` it is what that release gives: the decoder's context of the
        first 256 tokens, rows of missing tokens included.

        Parameters
        ----------
        given : Tokens or Observations
            Any subset of the model's modalities; objects may miss any of them.
        pooling : {"mean", "none"}
            One vector an object, or one a token.
        batch_size : int
            Objects at a time.

        Raises
        ------
        UnknownModalityError
            If the model does not know a modality.
        """
        if pooling not in ("mean", "none"):
            raise ValueError(f"pooling must be 'mean' or 'none'; found {pooling!r}")
        tokens = self.as_tokens(given)
        pool = self._mean if pooling == "mean" else self.network.encode
        if self.config.compat:
            pool = partial(self._as_released, pooling)
        vectors, valid = [], []
        for start in range(0, len(tokens), batch_size):
            x, mask = pool(tokens[slice(start, start + batch_size)])
            vectors.append(x.float().cpu())
            valid.append(mask.cpu())
        slices = {} if pooling == "mean" or self.config.compat else self.network.slices(tokens)
        return Embedding(torch.cat(vectors).numpy(), torch.cat(valid).numpy(), slices)

    def _mean(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        ids, visible = self.network.select_given(tokens)
        return encode_packed(self.network, ids, visible).mean(len(tokens))

    def _as_released(self, pooling: str, tokens: Tokens) -> tuple[Tensor, Tensor]:
        from omnisky.model.aion import released_context

        x = released_context(self.network, tokens)
        x = x.mean(1) if pooling == "mean" else x
        return x, torch.ones(x.shape[:-1], dtype=torch.bool)

    def read(self, given: Tokens | Observations) -> Reading:
        """Read objects once; `omnisky.model.generation.Reading.generate` asks for targets."""
        from omnisky.model.generation import Reading

        return Reading(self, self.as_tokens(given))

    def generate(
        self,
        given: Tokens | Observations,
        target: str | Sequence[str],
        **how: Unpack[SamplingOptions],
    ) -> Generation:
        """Sample modalities from others.

        Parameters
        ----------
        given : Tokens or Observations
            What is known; objects may miss modalities, but not all of them.
        target : str or sequence of str
            What to sample, in this order: each is sampled given those before it.
        **how
            n_samples, method, steps, schedule, temperature, top_k, top_p, guidance, context, seed:
            see `omnisky.model.generation.Sampling`.

        Raises
        ------
        UnknownModalityError, ValueError, TypeError
            See `omnisky.model.generation.Reading` and its `generate`.
        """
        from omnisky.model.generation import Reading

        return Reading(self, self.as_tokens(given), keep=False).generate(target, **how)


def tokenize(observations: Observations, base: str | os.PathLike = "nano") -> Tokens:
    """Return the tokens of observations, made by the codecs of a pretrained model.

    Parameters
    ----------
    observations : Observations
        Any subset of the modalities the codecs know; objects may miss any of them.
    base : str or path
        Pretrained model whose codecs to use.

    Returns
    -------
    Tokens
        Ids and masks by modality.
    """
    return Tokenizer.from_pretrained(pretrained_folder(base) / "codecs").encode(observations)
