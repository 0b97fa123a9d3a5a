"""Models fitted on a base that computes on a CUDA device."""

import numpy as np
import pytest
import torch

from omnisky.adapt import FineTunedModel
from omnisky.model import Model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
INPUTS = ("gaia_xp", "gaia_g", "gaia_bp", "gaia_rp", "twomass_j")


@pytest.fixture(scope="module")
def stars(mini):
    """Return tokens of 60 stars, made on the CPU, and two labels."""
    observed = mini.observations.select(*INPUTS)[:60]
    return Model.from_pretrained("nano").tokenize(observed), mini.targets(
        "apogee_teff", "apogee_fe_h"
    )[:60]


@pytest.fixture(scope="module")
def there():
    return Model.from_pretrained("nano").to("cuda")


@pytest.mark.parametrize("adaptation", ["linear", "attentive", "full"])
def test_predictions_and_intervals(there, stars, adaptation, tmp_path):
    x, y = stars
    members = 2 if adaptation == "attentive" else 1
    model = FineTunedModel(there, adaptation, epochs=2, ensemble=members).fit(x, y)
    for given in (x, x.select("gaia_xp"), x.drop("gaia_xp")):
        predicted = model.predict(given)
        lower, upper = model.predict_interval(given, 0.5)
        assert predicted.shape == y.shape
        assert np.isfinite([predicted, lower, upper]).all()
        assert ((lower <= predicted) & (predicted <= upper)).all()
    assert {p.device.type for p in there.network.parameters()} == {"cuda"}
    model.save(tmp_path / "m")
    loaded = FineTunedModel.load(tmp_path / "m", device="cuda")
    assert loaded.base_.network.slot_modality.is_cuda
    np.testing.assert_allclose(loaded.predict(x), model.predict(x), rtol=1e-5)
    if adaptation == "linear":
        on_cpu = FineTunedModel(Model.from_pretrained("nano"), adaptation).fit(x, y)
        off = np.abs(model.predict(x) - on_cpu.predict(x)) / np.nanstd(y, axis=0)
        assert off.max() < 0.01, f"largest difference {off.max(0)} of the labels' spread"
        widths = [np.subtract(*m.predict_interval(x, 0.5)[::-1]) for m in (model, on_cpu)]
        np.testing.assert_allclose(widths[0], widths[1], rtol=0.02)


def test_classes(there, stars):
    x, y = stars
    hot = y[:, 0] > np.median(y[:, 0])
    model = FineTunedModel(there, "attentive", "classification", epochs=2, ensemble=2).fit(x, hot)
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1, rtol=1e-5)
