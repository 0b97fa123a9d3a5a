"""The models that ship say on a CUDA device what they say on the CPU: tokens, vectors, samples."""

import numpy as np
import pytest
import torch

from omnisky.modalities import Observations
from omnisky.model import Model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # A few galaxies of one universe need not be spread as those of all were.
    pytest.mark.filterwarnings("ignore:.* lie outside the range this codec was trained on"),
]


@pytest.fixture(scope="module", params=["nano", "nano-sky"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def here(name):
    """Return the model on the CPU."""
    return Model.from_pretrained(name)


@pytest.fixture(scope="module")
def there(name):
    """Return the model on the device."""
    return Model.from_pretrained(name).to("cuda")


@pytest.fixture(scope="module")
def observed(name, mini, galaxies):
    return galaxies if name == "nano-sky" else Observations({**mini.observations, **mini.labels})


@pytest.fixture(scope="module")
def all_tokens(here, observed):
    """Return tokens made on the CPU."""
    return here.tokenize(observed)


@pytest.fixture(scope="module")
def tokens(name, all_tokens):
    """Return those of fewer objects: galaxies have a thousand each."""
    return all_tokens[: 12 if name == "nano-sky" else 60]


@pytest.fixture
def convolutions():
    """Return a function that says how cuDNN multiplies single precision, until the test ends."""
    before = torch.backends.cudnn.conv.fp32_precision

    def multiply(how):
        torch.backends.cudnn.conv.fp32_precision = how

    yield multiply
    multiply(before)


@pytest.mark.parametrize(("how", "least"), [("tf32", 0.99), ("ieee", 0.995)])
def test_tokens(here, there, observed, all_tokens, convolutions, how, least):
    convolutions(how)
    wanted, found = all_tokens, there.tokenize(observed)
    assert list(found) == list(wanted)
    shares = {}
    for modality, ids in wanted.items():
        mask = wanted.mask[modality]
        assert torch.equal(found.mask[modality].cpu(), mask), modality
        shares[modality] = float((found[modality].cpu()[mask] == ids[mask]).float().mean())
    differ = ", ".join(f"{m} {1 - s:.2%} of {int(wanted.mask[m].sum())}" for m, s in shares.items())
    exact = {m for m, c in here.codecs.items() if {g.kind for g in c.groups} == {"ordinal"}}
    assert all(shares[m] == 1 for m in exact & set(shares)), f"ids that differ: {differ}"
    assert min(shares.values()) >= least, f"ids that differ with {how}: {differ}"


def test_decoded_tokens(here, there, tokens):
    wanted, found = here.tokenizer.decode(tokens), there.tokenizer.decode(tokens)
    for modality in wanted:
        one, two = wanted[modality], found[modality]
        assert np.array_equal(one.present, two.present), modality
        for part in ("flux", "value", "coefficients"):
            if hasattr(one, part):
                a, b = (np.asarray(getattr(m, part), dtype=float)[one.present] for m in (one, two))
                scale = np.nanstd(a) or 1.0
                # Convolutions are in TF32, of 10 bits.
                np.testing.assert_allclose(b, a, rtol=0.02, atol=0.02 * scale, err_msg=modality)


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_embeddings(here, there, tokens, pooling):
    wanted, found = here.embed(tokens, pooling), there.embed(tokens, pooling)
    np.testing.assert_array_equal(found.valid, wanted.valid)
    assert wanted.valid.any()
    np.testing.assert_allclose(found.vectors, wanted.vectors, atol=2e-4, rtol=0)
    # Where the tokens lie does not matter.
    moved = type(tokens)(
        {m: ids.cuda() for m, ids in tokens.items()},
        {m: mask.cuda() for m, mask in tokens.mask.items()},
    )
    np.testing.assert_allclose(there.embed(moved, pooling).vectors, found.vectors, atol=1e-5)


def test_embeddings_in_bfloat16(name, here, tokens):
    wanted = here.embed(tokens).vectors
    found = Model.from_pretrained(name).to("cuda").cast("bfloat16").embed(tokens).vectors
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (wanted * found).sum(1) / lengths
    assert cosine.min() >= 0.999, f"cosine from {cosine.min():.5f}, median {np.median(cosine):.5f}"


# What is given and asked for; scalars first, whose posteriors do not depend on draws.
ASKED = {
    "nano": (("gaia_g", "gaia_bp", "gaia_rp", "twomass_j"), "apogee_teff", "gaia_xp"),
    "nano-sky": (
        ("legacysurvey_flux_g", "legacysurvey_flux_r", "legacysurvey_flux_z"),
        "desi_z",
        "desi_spectrum",
    ),
}


@pytest.fixture(scope="module")
def given(name, tokens):
    known = tokens.select(*ASKED[name][0])
    complete = torch.stack([mask.all(1) for mask in known.mask.values()]).all(0)
    return known[complete][:4]


def test_posteriors(name, here, there, given):
    scalar = ASKED[name][1]
    wanted, found = (
        model.generate(given, scalar, n_samples=8, seed=3)[scalar] for model in (here, there)
    )
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-3)
    np.testing.assert_allclose(found.std, wanted.std, rtol=1e-2)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-4)
    # The draws invert the distribution at the same numbers, so that they are nearly all the same.
    same = np.isclose(found.samples, wanted.samples, rtol=1e-3).mean()
    assert same > 0.9, f"{1 - same:.1%} of the draws differ"


HOWS = [
    {"method": "roar", "steps": 4},
    {"method": "roar", "steps": 4, "context": "append"},
    {"method": "maskgit", "steps": 4},
    {"method": "maskgit", "steps": 3, "temperature": 0.0, "context": "append"},
    {"method": "roar", "steps": 3, "guidance": 1.5, "top_p": 0.9},
    {"method": "maskgit", "steps": 3, "guidance": "each", "top_k": 20},
    {"method": "autoregressive", "context": "append"},
]


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_samples(name, there, given, how):
    if how.get("guidance") == "each":
        first, second = tuple(given)[:2]
        how = {**how, "guidance": {first: 1.0, second: 0.5}}
    _, scalar, spectrum = ASKED[name]
    # One by one, DESI spectra would take long.
    alone = how["method"] == "autoregressive" and name == "nano-sky"
    targets = [scalar] if alone else [spectrum, scalar]
    found, again = (
        there.generate(given, targets, n_samples=2, seed=5, **how).tokens for _ in range(2)
    )
    for target in targets:
        same = float((again[target] == found[target]).float().mean())
        assert same == 1, f"with the same seed {1 - same:.2%} of the ids of {target} differ"
        start = 0
        for group in there.config.by_name[target].groups:
            ids = found[target][:, start : start + group.n_tokens]
            assert ids.min() >= 0
            assert ids.max() < group.vocab_size, f"{target}: {int(ids.max())} in {group}"
            start += group.n_tokens
    decoded = there.tokenizer.decode(found)
    assert np.isfinite(decoded[scalar].value).all()
    if not alone:
        assert len(decoded[spectrum]) == 2 * len(given)
        assert np.isfinite(decoded[spectrum].flux[decoded[spectrum].mask]).all()


def test_sampled_spectra(name, there, given):
    spectrum = ASKED[name][2]
    found = there.generate(given, spectrum, n_samples=3, steps=4)[spectrum]
    assert found.samples.shape == (3, len(given), len(found.wavelength))
    assert np.isfinite(found.mean).all()


def test_sampled_images(galaxies):
    model = Model.from_pretrained("nano-sky").to("cuda")
    given = galaxies.select("legacysurvey_flux_g", "legacysurvey_flux_r")[:3]
    found = model.generate(given, "legacysurvey_image", n_samples=2, method="maskgit", steps=4)
    images = found["legacysurvey_image"][1]
    assert len(images) == 3
    assert np.isfinite(images.flux[images.mask]).all()
