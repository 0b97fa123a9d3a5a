"""The pretrained model as users meet it: tokenizer and transformer together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import torch

from omnisky.codecs.codec import Codec
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Observations
from omnisky.model.agreement import check_codecs, check_values, extended_network, move, tell_values
from omnisky.model.blocks import usable_device
from omnisky.model.compact import Stored, compact, restored
from omnisky.model.config import ModelConfig
from omnisky.model.embedding import Embedding, Pooling, embed_tokens
from omnisky.model.fast import warn_if_imitated
from omnisky.model.training import new_network
from omnisky.model.transformer import Transformer
from omnisky.pretrained import is_released, modalities_of, pretrained_folder, source_of
from omnisky.storage import CheckpointError, read_folder, write_folder

if TYPE_CHECKING:
    from omnisky.model.generation import Generation, Reading, SamplingOptions

__all__ = ["Embedding", "Model", "tokenize"]

_KIND = "model"


class Model:
    """A tokenizer and an any-to-any transformer that belong together.

    Parameters
    ----------
    network : Transformer
        The transformer.
    tokenizer : Tokenizer, optional
        Codecs of its modalities. A modality without one is used by its tokens only.
    source : str, optional
        Where both were read from: a name that ships, a folder, or ``organisation/name@commit``.

    Raises
    ------
    ValueError
        If the tokenizer has a codec of a modality that the transformer does not know, or one that
        makes other tokens than it takes.
    """

    def __init__(
        self, network: Transformer, tokenizer: Tokenizer | None, *, source: str | None = None
    ) -> None:
        check_codecs(network.config, tokenizer.codecs if tokenizer else {})
        self.network, self._tokenizer, self.source = network, tokenizer, source

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
    def from_preset(
        cls,
        preset: str,
        tokenizer: Tokenizer | None = None,
        layout: Literal["own", "aion"] = "own",
    ) -> Model:
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
        layout : {"own", "aion"}
            "own" makes vectors from what ids mean and learns positions; "aion" is the released
            network: a plain table a modality, fixed positions, desi_z and sdss_z as one.

        Raises
        ------
        ValueError
            If preset or layout is unknown, or a codec does not fit AION-1's layout.
        """
        if layout not in ("own", "aion"):
            raise ValueError(f"layout must be 'own' or 'aion'; found {layout!r}")
        codecs = tokenizer.codecs if tokenizer else {}
        if layout == "aion" or not codecs:
            from omnisky.model.aion import released_layout, released_modalities

            listed = released_layout(codecs) if codecs else released_modalities()
            config = ModelConfig.preset(preset, listed)
            return cls(new_network(replace(config, positions="fixed", free_rank=0)), tokenizer)
        config = ModelConfig.preset(preset).with_codecs(codecs)
        model = cls(new_network(config), tokenizer)
        with torch.device("cpu"):
            tell_values(model.network, codecs)
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
            A name that ships, a folder (ours or AION-1's), or a hub id ``organisation/name``, which
            may say its revision: ``organisation/name@revision``.
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
        ValueError
            If a revision is given for what is not on the hub, or `compat` for what is not AION-1's.
        """
        from omnisky.model.aion import read_released, released_tokenizer

        folder = pretrained_folder(name, revision)
        source = source_of(name, revision, folder)
        if is_released(folder):
            network = read_released(folder, compat=compat)
            codecs = released_tokenizer(folder, network.config.by_name, compat)
            # Read by its name alone, it would be right again: another model.
            return cls._together(network, codecs, folder, None if compat else source)
        if compat is not None:
            raise ValueError(f"compat={compat!r} is for AION-1's checkpoints; {folder} is none")
        config, tensors = read_folder(folder, _KIND)
        codecs = None
        if config.pop("codecs", True):
            codecs = Tokenizer.from_pretrained(folder / "codecs")
        try:
            network = restored(ModelConfig.from_dict(config), tensors)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{folder} does not fit a model: {error}") from error
        return cls._together(network, codecs, folder, source)

    @classmethod
    def _together(
        cls, network: Transformer, codecs: Tokenizer | None, folder: Path, source: str | None
    ) -> Model:
        """Return the model of a network and codecs that were read from one folder."""
        try:
            # A shared codec may know more modalities than the network.
            codecs = codecs.limited_to(network.config.by_name) if codecs else None
            model = cls(network, codecs, source=source)
            check_values(network, model.codecs)
        except ValueError as error:
            raise CheckpointError(f"{folder} does not fit a model: {error}") from error
        return model

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        card: str = "",
        stored: Stored = "float32",
        layout: Literal["own", "aion"] = "own",
    ) -> Path:
        """Write ``config.json``, ``model.safetensors``, ``codecs/`` if there are, and a model card.

        Parameters
        ----------
        folder : path
            Folder to make; it must not exist.
        card : str
            Text of ``README.md``.
        stored : {"float32", "float16", "int8"}
            How the transformer's weights are stored, see `omnisky.model.compact`.
        layout : {"own", "aion"}
            "aion" writes the transformer as AION-1's own code reads it, in float32, if it has that
            layout; codecs beside it are omnisky's.

        Raises
        ------
        FileExistsError
            If the folder exists.
        ValueError
            If the model cannot be written so, or was cast to fewer bits.
        """

        def extra(work: Path) -> None:
            if self._tokenizer is not None:
                self._tokenizer.save_pretrained(work / "codecs")
            if card:
                (work / "README.md").write_text(card)

        if layout not in ("own", "aion") or (layout == "aion" and stored != "float32"):
            raise ValueError(
                "layout is 'own', or 'aion' with stored='float32'; found "
                f"{layout!r} with stored={stored!r}"
            )
        if layout == "aion":
            from omnisky.model.aion import write_released

            return write_released(self.network, folder, extra=extra)
        check_values(self.network, self.codecs)
        tensors = compact(self.network, stored)
        config = {**self.config.to_dict(), "codecs": bool(self.codecs)}
        return write_folder(folder, _KIND, config, tensors, extra=extra)

    def extended(self, tokenizer: Tokenizer) -> Model:
        """Return this model with the modalities of a larger tokenizer appended, ids kept.

        The known part of the network starts as a copy of this one's; the rest is freshly
        initialised. It stays on this one's device, in its number format and mode.

        Raises
        ------
        ValueError
            If the tokenizer lacks a codec that this model has, or has another in its place.
        """
        lacking = [name for name in self.codecs if name not in tokenizer.codecs]
        if lacking:
            raise ValueError(f"the larger tokenizer has no codec of {', '.join(lacking)}")
        model = Model(extended_network(self.network, tokenizer.codecs), tokenizer)
        move(model.network, model.codecs, self.network.slot_modality.device)
        return model

    def cast(self, precision: Literal["float32", "bfloat16"]) -> Model:
        """Compute in another number format from now on; returns itself.

        bfloat16 is faster where the processor computes in it, and rounds: weigh it against an
        embedding in float32 of some of your objects. Weights stay rounded, and cannot be saved.

        Warns
        -----
        UserWarning
            If the device imitates bfloat16, which takes several times as long as float32.
        """
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16'; found {precision!r}")
        self.network.cast(getattr(torch, precision))
        warn_if_imitated(self.network.slot_modality.device, self.network.dtype, "float32")
        return self

    def to(self, device: str | torch.device | None) -> Model:
        """Compute on another device from now on; returns itself. Tokens may stay where they are.

        None is a CUDA device where there is one. The networks of its codecs go there, too.

        Raises
        ------
        ValueError
            If this machine has no such device.
        """
        chosen = usable_device(device)
        move(self.network, self.codecs, chosen)
        warn_if_imitated(chosen, self.network.dtype, "float32")
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

    def embed(
        self,
        given: Tokens | Observations,
        pooling: Pooling = "mean",
        batch_size: int = 512,
    ) -> Embedding:
        """Return the mean encoder output over all tokens an object has, or every token's.

        Under ``compat="aion-0.0.2"`` it is what that release gives: the decoder's context of the
        first 256 tokens, rows of missing tokens included.

        Parameters
        ----------
        given : Tokens or Observations
            Any subset of the model's modalities; objects may miss any of them.
        pooling : {"mean", "tokens"}
            One vector an object, or one a token.
        batch_size : int
            Most objects at a time; they are fewer where objects have many tokens.

        Raises
        ------
        UnknownModalityError
            If the model does not know a modality.
        ValueError
            If there are no objects, or pooling or batch size are not possible.
        """
        return embed_tokens(self.network, self.as_tokens(given), pooling, batch_size)

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
        Pretrained model whose codecs to use: a name that ships, a folder or a hub id.

    Returns
    -------
    Tokens
        Ids and masks by modality.
    """
    from omnisky.model.aion import released_tokenizer

    folder = pretrained_folder(base, part="codecs")
    if not is_released(folder):
        return Tokenizer.from_pretrained(folder / "codecs").encode(observations)
    tokenizer = released_tokenizer(folder, modalities_of(folder))
    assert tokenizer is not None, "modalities_of would have refused a folder without codecs"
    return tokenizer.encode(observations)
