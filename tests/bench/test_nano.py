"""The weights that ship are worth something: labels of stars from their spectra."""

import numpy as np
import pytest

from omnisky.adapt.metrics import robust_scatter
from omnisky.model import Model


@pytest.mark.parametrize(("label", "most"), [("apogee_teff", 150), ("apogee_fe_h", 0.25)])
def test_nano_knows_labels_from_xp(mini, label, most):
    test = mini["test"]
    given = test.observations.select("gaia_xp")
    drawn = Model.from_pretrained("nano").generate(given, label, n_samples=1)[label]
    error = drawn.quantile(0.5) - test.targets(label)[:, 0]
    known = np.isfinite(error)
    assert known.sum() > 60
    # 82 K and 0.15 dex when it was released.
    assert robust_scatter(error[known]) < most
