"""Generation: shapes, seeds, posteriors, bad input."""

import numpy as np
import pytest
import torch

from omnisky.codecs import ScalarCodec, Tokenizer, Tokens
from omnisky.modalities import Observations, Scalar, UnknownModalityError
from omnisky.model import Model
from omnisky.model.generation import ScalarPosterior

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")


@pytest.fixture(scope="module")
def photometry(mini):
    return mini.observations.select(*PHOTOMETRY)[:6]


def test_a_scalar_comes_with_its_posterior(star_model, photometry):
    found = star_model.generate(photometry, "apogee_fe_h", n_samples=5)["apogee_fe_h"]
    assert found.samples.shape == (5, 6)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-6)
    low, middle, high = found.quantile([0.1, 0.5, 0.9])
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert ((found.values[0] <= found.mean) & (found.mean <= found.values[-1])).all()
    assert (found.std > 0).all()
    assert np.isin(found.samples, found.values).all()


@pytest.mark.parametrize("method", ["roar", "maskgit", "autoregressive"])
def test_a_scalar_of_two_tokens_comes_with_its_posterior(method):
    flux = Scalar(np.array([3.0, 30.0]))
    found = Model.from_pretrained("nano-sky").generate(
        Observations({"legacysurvey_flux_r": flux}), "desi_z", n_samples=3, method=method
    )["desi_z"]
    assert isinstance(found, ScalarPosterior)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-6)


def test_a_spectrum_is_sampled_from_photometry(star_model, photometry, mini):
    found = star_model.generate(photometry, "gaia_xp", n_samples=3, steps=4)["gaia_xp"]
    assert found.samples.shape == (3, 6, 343)
    assert found.mean.shape == found.std.shape == (6, 343)
    np.testing.assert_array_equal(found.wavelength, mini.observations["gaia_xp"].wavelength)


def test_several_targets_are_drawn_jointly(star_model, photometry):
    found = star_model.generate(photometry, ["apogee_teff", "apogee_logg"], n_samples=4)
    assert set(found) == {"apogee_teff", "apogee_logg"}
    assert found["apogee_logg"].samples.shape == (4, 6)
    assert len(found.tokens) == 24


def test_seeds_and_temperature(star_model, photometry):
    def draw(**kwargs):
        return star_model.generate(photometry, "apogee_teff", n_samples=8, **kwargs)[
            "apogee_teff"
        ].samples

    np.testing.assert_array_equal(draw(seed=3), draw(seed=3))
    assert (draw(seed=3) != draw(seed=4)).any()
    certain = draw(temperature=0.0)
    assert (certain == certain[0]).all()


def test_samples_follow_the_probabilities(star_model, photometry):
    found = star_model.generate(photometry[:1], "apogee_logg", n_samples=4000)["apogee_logg"]
    error = found.std[0] / np.sqrt(4000)
    assert abs(found.samples.mean() - found.mean[0]) < 5 * error


def test_quantiles_of_a_known_posterior():
    values = np.linspace(-3, 3, 601)
    density = np.exp(-(values**2) / 2)
    posterior = ScalarPosterior(values, (density / density.sum())[None], np.zeros((1, 1)))
    assert posterior.quantile(0.8413)[0] == pytest.approx(1, abs=0.01)
    assert posterior.std[0] == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(posterior.quantile([0.1587, 0.8413])[:, 0], [-1, 1], atol=0.01)
    for wrong in (1.2, [0.5, float("nan")], "median", None):
        with pytest.raises(ValueError, match="between 0 and 1, or a list of levels; found"):
            posterior.quantile(wrong)


def test_bad_requests_are_refused(star_model, photometry):
    with pytest.raises(UnknownModalityError, match="cannot generate desi_z"):
        star_model.generate(photometry, "desi_z")
    with pytest.raises(ValueError, match="targets must differ"):
        star_model.generate(photometry, "gaia_g")
    with pytest.raises(ValueError, match="n_samples and steps"):
        star_model.generate(photometry, "apogee_teff", n_samples=0)
    nothing = Tokens(
        {"gaia_g": torch.zeros(2, 1, dtype=torch.long)}, {"gaia_g": torch.tensor([[True], [False]])}
    )
    with pytest.raises(ValueError, match=r"1 objects have no token .* the first is object 1"):
        star_model.generate(nothing, "apogee_teff")


def test_a_scalar_of_two_tokens_has_a_posterior_and_finer_samples():
    rng = np.random.default_rng(0)
    values = Scalar(rng.normal(size=4000))
    codecs = {
        "gaia_g": ScalarCodec.fit(values, modality="gaia_g", bins=16, tokens=2),
        "gaia_bp": ScalarCodec.fit(values, modality="gaia_bp", bins=16),
    }
    torch.manual_seed(0)
    model = Model.from_preset("tiny", Tokenizer(codecs))
    model.network.eval()
    given = Observations({"gaia_bp": Scalar(rng.normal(size=3))})
    found = model.generate(given, "gaia_g", n_samples=400, seed=1)["gaia_g"]
    assert found.probabilities.shape == (3, 16)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert found.samples.shape == (400, 3)
    assert len(np.unique(found.samples)) > 3 * 16
    # Bins hold the samples in the proportions of the posterior.
    edges = codecs["gaia_g"].bins.edges[0].numpy()
    share = [
        np.bincount(np.searchsorted(edges, s, side="right"), minlength=16) for s in found.samples.T
    ]
    np.testing.assert_allclose(np.array(share) / 400, found.probabilities, atol=0.1)
