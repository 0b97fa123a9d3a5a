"""A small learned codec of two surveys' spectra, as a module and as a program that trains it."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from omnisky.codecs import FSQ, LearnedCodec, TokenGroup, loading
from omnisky.data.store import write_store
from omnisky.modalities import Observations, SkyObjects, Spectrum

PIXELS = 12


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    modalities: tuple[str, ...] = ("one_spectrum", "two_spectrum")
    levels: tuple[int, ...] = (4, 4)
    flip: bool = False


class ToyCodec(LearnedCodec):
    """One FSQ code a spectrum; a learned offset a survey."""

    kind = "toy-codec"
    config_class = ToyConfig
    scale: torch.Tensor

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.fsq = FSQ(config.levels)
        self.encoder = nn.Linear(PIXELS, len(config.levels))
        self.decoder = nn.Linear(len(config.levels), PIXELS)
        self.offset = nn.ParameterDict({m: nn.Parameter(torch.zeros(1)) for m in config.modalities})
        self.register_buffer("scale", torch.ones(()))

    @property
    def modalities(self):
        return self.config.modalities

    @property
    def groups(self):
        return (TokenGroup(kind="code", n_tokens=1, vocab_size=self.n_codes),)

    @property
    def n_codes(self):
        return self.fsq.n_codes

    def fit(self, samples):
        self.scale.fill_(float(np.std([m.flux.std() for m in samples.values()])) + 1)

    def augment(self, measurement, generator):
        if not self.config.flip or torch.rand((), generator=generator) < 0.5:
            return measurement
        flipped = (a[:, ::-1] for a in (measurement.flux, measurement.ivar, measurement.mask))
        return Spectrum(*flipped, measurement.wavelength)

    def prepare(self, measurement):
        return {"flux": torch.from_numpy(measurement.flux.copy()).float() / self.scale}

    def loss(self, batch):
        codes = self.fsq(self.encoder(batch["flux"]))
        decoded = self.decoder(codes) + self.offset[self.modality]
        error = (decoded - batch["flux"]).square().mean(1)
        ids = self.fsq.codes_to_indices(codes.detach())
        return error.mean(), {"error": error.detach().mean(), "codes": ids}

    def report(self, measurement):
        return {"error": float(self.loss(self.prepare(measurement))[0])}

    def encode_masked(self, measurement):
        codes = self.fsq(self.encoder(self.prepare(measurement)["flux"]))
        mask = torch.from_numpy(measurement.present)[:, None]
        return self.fsq.codes_to_indices(codes)[:, None] * mask, mask

    def decode(self, ids, mask=None):
        decoded = self.decoder(self.fsq.indices_to_codes(ids[:, 0])) + self.offset[self.modality]
        flux = (decoded * self.scale).detach().numpy()
        good = None if mask is None else mask.numpy() & np.ones(flux.shape, bool)
        return Spectrum(flux, mask=good, wavelength=np.linspace(400, 700, PIXELS))

    def values(self):
        return None

    def count_outside(self, measurement):
        return 0


def register() -> None:
    """Let recipes and folders know the toy."""
    loading._KINDS["toy-codec"] = f"{__name__}:ToyCodec"


def objects(survey: str, count: int, seed: int = 0) -> SkyObjects:
    """Return objects of a survey with spectra; every ninth has none."""
    rng = np.random.default_rng(seed)
    wave = np.linspace(0, 3, PIXELS)
    flux = rng.normal(2, 1, (count, 1)) * np.sin(wave + rng.normal(0, 1, (count, 1)))
    mask = np.ones(flux.shape, bool)
    mask[::9] = False
    spectrum = Spectrum(flux, np.ones_like(flux), mask, np.linspace(400, 700, PIXELS))
    return SkyObjects(
        survey=survey,
        object_id=np.arange(count),
        ra_deg=rng.uniform(0, 360, count),
        dec_deg=rng.uniform(-80, 80, count),
        observations=Observations({f"{survey}_spectrum": spectrum}),
    )


def write_recipe(folder: Path, count: int = 200) -> Path:
    """Write two stores and a recipe that trains the toy on both."""
    for number, survey in enumerate(("one", "two")):
        size = count // (1 + number)
        write_store([objects(survey, size, number)], folder / survey, margin_arcsec=0)
    recipe = folder / "toy.toml"
    recipe.write_text(f"""
[codec]
kind = "toy-codec"
samples = 50
held_out = 20

[codec.config]
levels = [4, 4]

[[data]]
store = "{folder / "one"}"
modality = "one_spectrum"
weight = 3

[[data]]
store = "{folder / "two"}"
modality = "two_spectrum"

[train]
steps = 40
batch_size = 8
warmup_steps = 5
learning_rate = 0.01
checkpoint_every = 10
log_every = 4
ema = 0.9
""")
    return recipe


def slow_down(seconds: float) -> None:
    """Let every step take so long."""
    loss = ToyCodec.loss

    def slowly(self, batch):
        time.sleep(seconds)
        return loss(self, batch)

    ToyCodec.loss = slowly


if __name__ == "__main__":
    from toy_objective import die_in_save_of

    from omnisky.train.codec import train_codec

    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--die-in-save-of", type=int)
    options = parser.parse_args()
    register()
    slow_down(options.sleep)
    if options.die_in_save_of is not None:
        die_in_save_of(options.die_in_save_of)
    train_codec(options.recipe, options.set, options.out)
