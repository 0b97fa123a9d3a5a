"""Spectrum codec on real XP spectra."""

import copy

import numpy as np
import pytest
import torch

from omnisky.codecs import SampledSpectrumCodec, load_codec
from omnisky.modalities import Scalar, Spectrum
from omnisky.train.codec import CodecObjective, DataRecipe
from omnisky.train.codec.sources import InMemory, Part


@pytest.fixture
def codec(star_tokenizer) -> SampledSpectrumCodec:
    return star_tokenizer.codecs["gaia_xp"]


def test_tokens_lie_in_their_vocabularies(codec, mini):
    ids, mask = codec.encode_masked(mini.observations["gaia_xp"])
    assert ids.shape == mask.shape == (len(mini), codec.n_tokens)
    assert mask.all()
    first = 0
    for group in codec.groups:
        part = ids[:, first : first + group.n_tokens]
        assert 0 <= part.min() <= part.max() < group.vocab_size
        first += group.n_tokens


def test_the_amplitudes_alone_follow_the_spectrum(codec, mini):
    spectra = mini.observations["gaia_xp"]
    batch = codec.prepare(spectra)
    smooth = codec.reconstruct(batch["smooth"], torch.zeros_like(batch["residual"]))
    error = (smooth - batch["flux"]).abs() / batch["flux"].abs().clamp(min=0.05)
    assert error.median() < 0.03


def test_decoding_returns_the_modalitys_unit(codec, mini):
    spectra = mini.observations["gaia_xp"]
    decoded = codec.decode(codec.encode_masked(spectra)[0])
    ratio = np.median(decoded.flux, axis=1) / np.median(spectra.flux, axis=1)
    assert np.median(np.abs(ratio - 1)) < 0.1


def test_scaling_the_flux_changes_the_normalisation_token_only_in_the_main(codec, mini):
    spectra = mini.observations["gaia_xp"][:50]
    # Ten bins of the normalisation grid, so that the rounding of both is the same.
    step = float(codec.norm_bins.means[0, 1] - codec.norm_bins.means[0, 0])
    factor = 10 ** (2 * step)
    brighter = Spectrum(
        spectra.flux * factor, spectra.ivar / factor**2, spectra.mask, spectra.wavelength
    )
    a, b = codec.encode_masked(spectra)[0], codec.encode_masked(brighter)[0]
    assert (b[:, 0] - a[:, 0] == 2).all()
    assert (a[:, 1:] == b[:, 1:]).float().mean() > 0.97


def test_masked_pixels_never_reach_the_tokens(codec, mini):
    spectra = mini.observations["gaia_xp"][:20]
    mask = spectra.mask.copy()
    mask[:, 100:110] = False
    wild = spectra.flux.copy()
    wild[:, 100:110] = 1e-12
    a = codec.encode_masked(Spectrum(spectra.flux, spectra.ivar, mask, spectra.wavelength))[0]
    b = codec.encode_masked(Spectrum(wild, spectra.ivar, mask, spectra.wavelength))[0]
    assert torch.equal(a, b)


def test_objects_without_a_good_pixel_have_no_tokens(codec, mini):
    spectra = mini.observations["gaia_xp"][:3]
    mask = spectra.mask.copy()
    mask[1] = False
    _, present = codec.encode_masked(Spectrum(spectra.flux, spectra.ivar, mask, spectra.wavelength))
    assert present.all(1).tolist() == [True, False, True]


def test_spectra_without_errors_count_as_absent_and_are_told(codec, mini):
    spectra = mini.observations["gaia_xp"][:5]
    ids, _ = codec.encode_masked(spectra)
    ivar = spectra.ivar.copy()
    ivar[[1, 3]] = 0
    with pytest.warns(UserWarning, match="gaia_xp: 2 of 5 spectra have no errors .* is object 1"):
        some, present = codec.encode_masked(
            Spectrum(spectra.flux, ivar, spectra.mask, spectra.wavelength)
        )
    assert present.all(1).tolist() == [True, False, True, False, True]
    assert torch.equal(some[present], ids[present])
    assert not some[~present].any()


def test_no_errors_at_all(codec, mini):
    spectra = mini.observations["gaia_xp"][:5]
    nothing = Spectrum(spectra.flux, wavelength=spectra.wavelength)
    with pytest.warns(UserWarning, match=r"gaia_xp: 5 of 5 spectra .*Spectrum\.from_error"):
        assert not codec.encode_masked(nothing)[1].any()
    told = pytest.warns(UserWarning, match="5 of 5 spectra")
    with told, pytest.raises(ValueError, match="no spectrum has errors"):
        copy.deepcopy(codec).fit_basis(nothing)
    # Without a spectrum there is nothing to lose.
    absent = Spectrum(nothing.flux, None, np.zeros_like(nothing.mask), nothing.wavelength)
    assert not codec.encode_masked(absent)[1].any()


def test_spectra_without_errors_do_not_shape_the_basis(codec, mini):
    spectra, again = mini.observations["gaia_xp"], copy.deepcopy(codec)
    ivar, flux = spectra.ivar.copy(), spectra.flux.copy()
    ivar[:50], flux[:50] = 0, 1
    with pytest.warns(UserWarning, match="50 of 399 spectra have no errors"):
        again.fit_basis(Spectrum(flux, ivar, spectra.mask, spectra.wavelength))
    codec = copy.deepcopy(codec)
    codec.fit_basis(spectra[50:])
    assert torch.equal(again.basis, codec.basis)
    assert torch.equal(again.norm_bins.edges, codec.norm_bins.edges)


def test_encoding_leaves_its_input_alone_and_ignores_the_batch(codec, mini):
    spectra = mini.observations["gaia_xp"][:30]
    before = spectra.flux.copy()
    ids = codec.encode_masked(spectra)[0]
    np.testing.assert_array_equal(spectra.flux, before)
    assert torch.equal(codec.encode_masked(spectra, batch_size=7)[0], ids)


def test_a_saved_codec_gives_the_same_tokens(codec, mini, tmp_path):
    spectra = mini.observations["gaia_xp"][:20]
    again = load_codec(codec.save(tmp_path / "codec"))
    assert torch.equal(again.encode_masked(spectra)[0], codec.encode_masked(spectra)[0])


def test_what_lies_outside_is_counted_where_the_codec_was_moved(codec, mini):
    moved = copy.deepcopy(codec).to("meta")
    # All but the number itself, which a device without memory cannot tell.
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        moved.count_outside(mini.observations["gaia_xp"][:5])


def test_another_grid_is_refused(codec, mini):
    spectra = mini.observations["gaia_xp"][:2]
    shifted = Spectrum(spectra.flux, spectra.ivar, spectra.mask, spectra.wavelength + 1)
    with pytest.raises(ValueError, match=r"336 … 1020 nm in 343 pixels; found 337"):
        codec.encode(shifted)
    short = Spectrum(spectra.flux[:, :100], wavelength=spectra.wavelength[:100])
    with pytest.raises(ValueError, match="found 336 … 534 nm in 100 pixels"):
        codec.encode(short)


def test_a_scalar_is_refused(codec):
    with pytest.raises(TypeError, match="is a spectrum; found a Scalar"):
        codec.encode(Scalar(np.ones(3)))


def test_training_lowers_the_loss_and_reports(star_tokenizer, mini):
    codec = copy.deepcopy(star_tokenizer.codecs["gaia_xp"])
    spectra = mini.observations["gaia_xp"]
    part = Part(
        name="gaia_xp",
        modality="gaia_xp",
        source=DataRecipe(dataset="gaia-apogee-mini"),
        training=InMemory(spectra),
        held_out=InMemory(spectra[:50]),
    )
    objective = CodecObjective(codec, [part])
    optimizer = torch.optim.AdamW(codec.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(30):
        loss, _ = objective.loss(objective.module, torch.arange(128), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert objective.take_usage().sum() == 30 * 128 * codec.groups[1].n_tokens
    assert not objective.take_usage().any()
    assert objective.evaluate().keys() == codec.report(spectra).keys()
    report = codec.report(spectra)
    assert report["chi2_per_pixel_median"] < report["chi2_per_pixel_90"]
    assert 0 < report["codes_used_fraction"] <= 1
