"""The pretrained model as users meet it: tokenizer and transformer together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Observations
from omnisky.model.config import ModelConfig
from omnisky.model.embeddings import set_values
from omnisky.model.transformer import Transformer
from omnisky.storage import CheckpointError, read_folder, write_folder

if TYPE_CHECKING:
    from omnisky.model.generation import Generation

__all__ = ["Embedding", "Model", "pretrained_folder", "shipped", "tokenize"]

_KIND = "model"


@dataclass(frozen=True)
class Embedding:
    """Hold one vector an object.

    Parameters
    ----------
    vectors : array of float32, shape (object, dim)
        Mean of the encoder outputs over the tokens the object has; 0 where it has none.
    valid : array of bool, shape (object,)
        False for objects without a single token.
    """

    vectors: np.ndarray
    valid: np.ndarray


def shipped() -> dict[str, Path]:
    """Return the pretrained models inside the package, by name."""
    root = Path(str(files("omnisky"))) / "pretrained"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def pretrained_folder(name: str | os.PathLike) -> Path:
    """Return the folder of a pretrained model: a name that ships with omnisky, or a path.

    Raises
    ------
    FileNotFoundError
        If it is neither.
    """
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    if not Path(name).is_dir():
        raise FileNotFoundError(
            f"no pretrained model {str(name)!r}: it is neither a folder nor one of those that ship "
            f"with omnisky ({', '.join(known) or 'none'})"
        )
    return Path(name)


class Model:
    """A tokenizer and an any-to-any transformer that belong together.

    Parameters
    ----------
    network : Transformer
        The transformer.
    tokenizer : Tokenizer
        Codecs of exactly its modalities.
    """

    def __init__(self, network: Transformer, tokenizer: Tokenizer) -> None:
        if set(network.names) != set(tokenizer.codecs):
            raise ValueError(
                f"transformer and tokenizer disagree: {sorted(network.names)} and "
                f"{sorted(tokenizer.codecs)}"
            )
        self.network, self.tokenizer = network, tokenizer

    @property
    def config(self) -> ModelConfig:
        """Sizes and modalities."""
        return self.network.config

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.network.parameters())
        return f"Model({size / 1e6:.2f} M parameters; {', '.join(self.network.names)})"

    @classmethod
    def from_preset(cls, preset: str, tokenizer: Tokenizer) -> Model:
        """Return an untrained model of a named size for the modalities of a tokenizer."""
        config = ModelConfig.preset(preset).with_codecs(tokenizer.codecs)
        model = cls(Transformer(config), tokenizer)
        model._tell_values(tokenizer.codecs)
        return model

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike) -> Model:
        """Load a model that ships with omnisky by name, or any from its folder.

        Raises
        ------
        FileNotFoundError
            If there is no such model or a file is missing.
        CheckpointError
            If a file is damaged, pickled, of another version, or parts do not fit together.
        """
        folder = pretrained_folder(name)
        config, tensors = read_folder(folder, _KIND)
        tokenizer = Tokenizer.from_pretrained(folder / "codecs")
        try:
            network = Transformer(ModelConfig.from_dict(config))
            network.load_state_dict({name: _full(tensor) for name, tensor in tensors.items()})
            return cls(network.eval(), tokenizer)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{folder} does not fit a model: {error}") from error

    def save_pretrained(
        self, folder: str | os.PathLike, *, card: str = "", half: bool = False
    ) -> Path:
        """Write ``config.json``, ``model.safetensors``, ``codecs/`` and a model card.

        Parameters
        ----------
        folder : path
            Folder to make; it must not exist.
        card : str
            Text of ``README.md``.
        half : bool
            Store the transformer's weights in float16, half the size.
        """
        tensors = {
            name: t.half() if half and t.dtype == torch.float32 else t
            for name, t in self.network.state_dict().items()
        }

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
            If the tokenizer lacks a modality of this model.
        """
        lacking = [name for name in self.network.names if name not in tokenizer.codecs]
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
        pooling: Literal["mean"] = "mean",
        batch_size: int = 512,
    ) -> Embedding:
        """Return one vector an object: the mean encoder output over all tokens it has.

        Parameters
        ----------
        given : Tokens or Observations
            Any subset of the model's modalities; objects may miss any of them.
        pooling : {"mean"}
            How token vectors become one.
        batch_size : int
            Objects at a time.

        Raises
        ------
        UnknownModalityError
            If the model does not know a modality.
        """
        if pooling != "mean":
            raise ValueError(f"pooling must be 'mean'; found {pooling!r}")
        tokens = self.as_tokens(given)
        vectors, valid = [], []
        for start in range(0, len(tokens), batch_size):
            x, mask = self.network.encode(tokens[slice(start, start + batch_size)])
            count = mask.sum(1, keepdim=True)
            vectors.append((x.sum(1) / count.clamp(min=1)).float().cpu())
            valid.append((count[:, 0] > 0).cpu())
        return Embedding(torch.cat(vectors).numpy(), torch.cat(valid).numpy())

    def generate(
        self,
        given: Tokens | Observations,
        target: str | Sequence[str],
        *,
        n_samples: int = 16,
        temperature: float = 1.0,
        seed: int = 0,
        steps: int = 12,
    ) -> Generation:
        """Sample modalities from others; see `omnisky.model.generation.generate`."""
        from omnisky.model.generation import generate

        targets = [target] if isinstance(target, str) else list(target)
        return generate(self, self.as_tokens(given), targets, n_samples, temperature, seed, steps)


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


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
