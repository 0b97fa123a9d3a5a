"""The quickstart's galaxies, with an untrained model: figures are drawn and marked as mock."""

import json

import numpy as np
import torch
from PIL import Image as Picture

from omnisky.cli.quickstart.galaxies import show_galaxies
from omnisky.codecs import Codec, ScalarCodec, Tokenizer
from omnisky.model import Model


def test_galaxies_are_shown(tmp_path):
    image, spectrum = Codec.from_pretrained("image"), Codec.from_pretrained("spectrum")
    codecs = {name: image.of(name) for name in image.modalities}
    codecs["desi_spectrum"] = spectrum.of("desi_spectrum")
    codecs["desi_z"] = ScalarCodec.grid("desi_z", 0, 2, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model.from_preset("tiny", Tokenizer(codecs))
    model.network.eval()
    folder = model.save_pretrained(tmp_path / "model", card="# Untrained\n")
    found = show_galaxies(tmp_path, str(folder))
    assert found["mock"] is True
    json.dumps(found)
    for given in ("legacysurvey", "hsc"):
        rows = found[f"redshift_given_{given}_image"]
        assert len(rows) == 3
        assert all(row["low"] <= row["median"] <= row["high"] for row in rows)
        assert np.all(np.diff([row["true"] for row in rows]) > 0)
    for name in (
        "5_image_to_redshift_and_spectrum",
        "6_spectrum_to_image",
        "7_hsc_image_to_desi_spectrum",
    ):
        assert np.asarray(Picture.open(tmp_path / f"{name}.png").convert("L")).std() > 20
