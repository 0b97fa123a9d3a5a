"""A tiny untrained model for the commands, and a way to run them."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(mini, tmp_path_factory) -> Path:
    """Return the folder of an untrained model that reads everything but extinctions."""
    import torch

    from omnisky.codecs.scalars.scalar import ScalarCodec
    from omnisky.codecs.spectrum.sampled import SampledSpectrumCodec, SampledSpectrumCodecConfig
    from omnisky.codecs.tokenizer import Tokenizer
    from omnisky.model import Model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_amplitudes": 4, "bins": 32, "width": 8, "depth": 1}
        spectrum = SampledSpectrumCodec(
            SampledSpectrumCodecConfig(modality="gaia_xp", n_pixels=343, **sizes)
        )
        spectrum.fit_basis(mini.observations["gaia_xp"])
        codecs = {"gaia_xp": spectrum.eval()}
        for name, scalar in {**mini.observations, **mini.labels}.items():
            if name not in ("gaia_xp", "apogee_ak"):
                codecs[name] = ScalarCodec.fit(scalar, modality=name, bins=32)
        model = Model.from_preset("tiny", Tokenizer(codecs))
    model.network.eval()
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "tiny", card="# Tiny\n")


@pytest.fixture
def run(capsys, monkeypatch):
    """Return a function that runs a command and gives exit code, stdout and stderr."""
    from omnisky.cli import main

    monkeypatch.delenv("OMNISKY_DEBUG", raising=False)

    def command(*arguments) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


@pytest.fixture
def stars_file(mini, tmp_path) -> Path:
    """Return a table of 40 stars with labels, as a user would have it."""
    from omnisky.data.tables import write_table
    from omnisky.data.usertable import table_from_observations
    from omnisky.modalities import Observations

    stars = mini[:40]
    together = Observations({**stars.observations.drop("apogee_ak"), **stars.labels})
    table = table_from_observations(together, stars.object_id, id_name="source_id")
    table.rename_columns(["apogee_teff", "gaia_g"], ["teff", "mymag"])
    return write_table(table, tmp_path / "stars.parquet")
