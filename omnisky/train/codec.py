"""Train the codecs of a recipe: scalars are fitted at once, spectrum codecs run in the loop."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnisky.codecs.codec import Codec
from omnisky.codecs.scalars.scalar import ScalarCodec
from omnisky.codecs.spectrum.sampled import SampledSpectrumCodec, SampledSpectrumCodecConfig
from omnisky.data import datasets
from omnisky.modalities import Scalar, Spectrum
from omnisky.train.config import TrainConfig
from omnisky.train.loop import train
from omnisky.train.recipe import read_recipe, write_json

__all__ = ["CodecRecipe", "ScalarsRecipe", "SpectrumObjective", "spectrum_report", "train_codec"]


@dataclass(frozen=True, kw_only=True)
class ScalarsRecipe:
    """Fit scalar codecs.

    Parameters
    ----------
    modalities : tuple of str
        Which modalities, observations or labels of the data set.
    bins : int
        Vocabulary of each.
    """

    modalities: tuple[str, ...]
    bins: int = 1024


@dataclass(frozen=True, kw_only=True)
class CodecRecipe:
    """Say which codecs to train on which data.

    Parameters
    ----------
    dataset : str
        Name of a data set; only its train split is used, and calibration to report.
    scalars : ScalarsRecipe, optional
        Scalar codecs.
    spectrum : SampledSpectrumCodecConfig, optional
        A spectrum codec; then `train` says how.
    train : TrainConfig, optional
        Training of the spectrum codec.
    """

    dataset: str
    scalars: ScalarsRecipe | None = None
    spectrum: SampledSpectrumCodecConfig | None = None
    train: TrainConfig | None = None

    def __post_init__(self) -> None:
        if (self.spectrum is None) != (self.train is None):
            raise ValueError("a codec recipe has both sections [spectrum] and [train], or neither")
        if self.spectrum is None and self.scalars is None:
            raise ValueError("a codec recipe needs a section [scalars] or [spectrum]; found none")


class SpectrumObjective:
    """Reconstruction of training spectra, as the loop of `omnisky.train` wants it."""

    def __init__(self, codec: SampledSpectrumCodec, spectra: Spectrum, held_out: Spectrum) -> None:
        self.module: nn.Module = _LossModule(codec)
        self.codec = codec
        self.batches = codec.prepare(spectra)
        self.held_out = held_out
        self.n_examples = len(spectra)
        digest = hashlib.sha256(spectra.flux.tobytes())
        digest.update(json.dumps(codec.config.__dict__, default=str).encode())
        self.fingerprint = digest.hexdigest()

    def loss(
        self, module: nn.Module, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the codec's loss and the median χ² per pixel."""
        loss, chi2 = module({name: tensor[indices] for name, tensor in self.batches.items()})
        return loss, {"chi2_per_pixel": float(chi2.median())}

    def evaluate(self) -> dict[str, float]:
        """Return the figures of `spectrum_report` that are single numbers."""
        report = spectrum_report(self.codec, self.held_out)
        return {name: value for name, value in report.items() if isinstance(value, float)}


class _LossModule(nn.Module):
    """Make the loss the forward pass, so that DDP sees it."""

    def __init__(self, codec: SampledSpectrumCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.codec.loss(batch)


@torch.no_grad()
def spectrum_report(codec: SampledSpectrumCodec, spectra: Spectrum) -> dict[str, Any]:
    """Return reconstruction χ² per pixel and code usage on spectra.

    χ² per pixel is the mean over good pixels of ((flux - decoded) / error)², where flux is the
    noisy measurement: 0 would be a perfect copy, noise included, and 1 a perfect model of the star
    without its noise. Decoded means through the token ids.
    """
    ids, present = codec.encode_masked(spectra)
    decoded = codec.decode(ids)
    good = spectra.mask & (spectra.ivar > 0)
    error2 = (decoded.flux.astype(np.float64) - spectra.flux) ** 2 * spectra.ivar
    chi2 = np.where(good, error2, 0).sum(1) / np.maximum(good.sum(1), 1)
    chi2 = chi2[present[:, 0].numpy()]
    codes = ids[:, 1 + codec.config.n_amplitudes :]
    usage = torch.bincount(codes.flatten(), minlength=codec.autoencoder.fsq.n_codes).double()
    share = usage / usage.sum()
    entropy = -(share * share.clamp(min=1e-300).log2()).sum()
    return {
        "objects": len(chi2),
        "chi2_per_pixel_median": float(np.median(chi2)),
        "chi2_per_pixel_90": float(np.quantile(chi2, 0.9)),
        "codes_used_fraction": float((usage > 0).double().mean()),
        "code_entropy_bits": float(entropy),
        "codes": codec.autoencoder.fsq.n_codes,
        "tokens": codec.n_tokens,
    }


def train_codec(
    recipe: str | os.PathLike, overrides: Iterable[str] = (), out: str | os.PathLike = "runs/codecs"
) -> dict[str, Path]:
    """Train every codec of a recipe and write each into ``<out>/<modality>/``.

    Parameters
    ----------
    recipe : path
        A TOML file of a `CodecRecipe`.
    overrides : iterable of str
        ``key=value`` settings that replace the recipe's.
    out : path
        Folder of codec folders; the run of a spectrum codec is kept in ``<out>/<modality>-run``.

    Returns
    -------
    dict of str to Path
        Codec folder by modality.

    Raises
    ------
    FileExistsError
        If a codec folder exists already.
    """
    plan = read_recipe(recipe, CodecRecipe, overrides)
    folder = Path(out)
    names = (
        *(plan.scalars.modalities if plan.scalars else ()),
        *((plan.spectrum.modality,) if plan.spectrum else ()),
    )
    for name in names:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists; choose another --out or remove it")
    data = datasets.load(plan.dataset)
    written: dict[str, Path] = {}
    if plan.scalars is not None:
        for name in plan.scalars.modalities:
            written[name] = _fit_scalar(name, data, plan.scalars.bins).save(folder / name)
    if plan.spectrum is not None and plan.train is not None:
        name = plan.spectrum.modality
        spectra = data["train"].observations[name]
        held_out = data["calibration"].observations[name]
        assert isinstance(spectra, Spectrum)
        assert isinstance(held_out, Spectrum)
        codec = SampledSpectrumCodec(plan.spectrum)
        codec.fit_basis(spectra)
        run = folder / f"{name}-run"
        write_json(plan, run / "recipe.json")
        train(SpectrumObjective(codec, spectra, held_out), plan.train, run)
        written[name] = codec.eval().save(folder / name)
        write_json(spectrum_report(codec, held_out), folder / name / "report.json")
    return written


def _fit_scalar(name: str, data: datasets.Dataset, bins: int) -> Codec:
    training = data["train"]
    measured = training.labels if name in training.labels else training.observations
    scalar = measured[name]
    if not isinstance(scalar, Scalar):
        raise ValueError(f"{name!r} is not a scalar; use a section [spectrum] for it")
    return ScalarCodec.fit(scalar, modality=name, bins=bins)
