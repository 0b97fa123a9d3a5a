"""The latent-grid spectrum codec as a codec of our own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnisky.codecs import LatentSpectrumCodec, LatentSpectrumCodecConfig, load_codec
from omnisky.codecs.spectrum.figures import reconstruction_figures
from omnisky.codecs.spectrum.latent_grid import LatentGrid
from omnisky.modalities import Scalar, Spectrum

# Values of these tests lie where they may; that the warning is given is tested in test_codec.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*lie outside the range this codec")

CONFIG = LatentSpectrumCodecConfig(
    modalities=("desi_spectrum", "sdss_spectrum", "lamost_spectrum"),
    wavelength_nm=(350.0, 0.32, 2176),
    encoder_depths=(1, 1, 1, 1),
    encoder_dims=(8, 16, 16, 24),
    decoder_depths=(1, 1, 1, 1),
    decoder_dims=(16, 16, 8, 2),
)


@pytest.fixture(scope="module")
def codec() -> LatentSpectrumCodec:
    return make(CONFIG)


def make(config: LatentSpectrumCodecConfig) -> LatentSpectrumCodec:
    torch.manual_seed(0)
    codec = LatentSpectrumCodec(config).eval()
    for name, parameter in codec.named_parameters():
        if parameter.ndim > 1 and "grn" not in name:
            torch.nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    return codec


@pytest.fixture(scope="module")
def spectra(tools) -> Spectrum:
    return tools.make(tools.desi[::4], 6)


def test_tokens_lie_in_their_vocabularies(codec, spectra):
    ids, mask = codec.encode_masked(spectra)
    assert ids.shape == (6, 69)
    assert codec.n_tokens == 69
    assert ids.dtype == torch.long
    assert mask.all()
    assert [g.kind for g in codec.groups] == ["ordinal", "code"]
    assert 0 <= ids.min() <= ids.max() < 1024
    assert codec.values().shape == (1, 1024)


def test_input_is_never_changed_and_encoding_repeats(codec, spectra):
    before = [a.copy() for a in (spectra.flux, spectra.ivar, spectra.mask, spectra.wavelength)]
    assert torch.equal(codec.encode(spectra), codec.encode(spectra))
    after = (spectra.flux, spectra.ivar, spectra.mask, spectra.wavelength)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("quantiser", ["lfq", "fsq"])
def test_both_quantisers_save_and_load(quantiser, spectra, tmp_path):
    levels = (2,) * 10 if quantiser == "lfq" else (8, 8, 4, 4)
    codec = make(replace(CONFIG, quantiser=quantiser, levels=levels))
    codec.save(tmp_path / "codec")
    again = load_codec(tmp_path / "codec").of("sdss_spectrum")
    assert again.config == codec.config
    assert torch.equal(again.encode(spectra), codec.encode(spectra))


def test_masked_pixels_never_reach_the_tokens(codec, spectra):
    mask = spectra.mask.copy()
    mask[:, 100:110] = mask[:, :5] = False
    wild = np.where(mask, spectra.flux, 1e6)
    ids = [
        codec.encode(Spectrum(flux, spectra.ivar, mask, spectra.wavelength))
        for flux in (wild, spectra.flux, np.where(mask, spectra.flux, np.nan))
    ]
    assert torch.equal(ids[0], ids[1])
    assert torch.equal(ids[0], ids[2])


def test_masked_ends_are_the_same_as_no_pixels_there(codec, spectra):
    mask = spectra.mask.copy()
    mask[:, :300] = mask[:, 1500:] = False
    masked = Spectrum(spectra.flux, spectra.ivar, mask, spectra.wavelength)
    cut = Spectrum(
        spectra.flux[:, 300:1500], spectra.ivar[:, 300:1500], None, spectra.wavelength[300:1500]
    )
    for a, b in zip(codec._inputs(masked), codec._inputs(cut), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_scaling_flux_and_errors_moves_the_normalisation_token_alone(codec, spectra):
    step = float(codec.bins.values[1] - codec.bins.values[0])
    factor = 10 ** (7 * step)
    bright = spectra[np.median(spectra.flux, axis=1) > 1]
    brighter = Spectrum(bright.flux * factor, bright.ivar / factor**2, None, bright.wavelength)
    a, b = codec.encode(bright), codec.encode(brighter)
    assert (b[:, 0] - a[:, 0] == 7).all()
    assert (a[:, 1:] == b[:, 1:]).float().mean() > 0.99


def test_all_masked_spectra_are_absent_and_come_back_so(codec, spectra):
    mask = spectra.mask.copy()
    mask[2] = False
    some = Spectrum(spectra.flux, spectra.ivar, mask, spectra.wavelength)
    ids, there = codec.encode_masked(some)
    assert there.all(1).tolist() == [True, True, False, True, True, True]
    assert (ids[2] == 0).all()
    with pytest.raises(ValueError, match="1 of 6 objects have no desi_spectrum"):
        codec.encode(some)
    decoded = codec.decode(ids, there, threshold=1)
    assert decoded.present.tolist() == there.all(1).tolist()
    # What the mask hides may be anything.
    ids[2] = -5
    assert np.array_equal(codec.decode(ids, there, threshold=1).flux, decoded.flux)


def test_good_pixels_outside_the_grid_alone_make_an_object_absent(codec):
    wavelength = np.linspace(200, 500, 400)
    mask = np.broadcast_to(wavelength < 300, (1, 400))
    _, there = codec.encode_masked(Spectrum(np.ones((1, 400)), None, mask, wavelength))
    assert not there.any()


def test_no_objects_are_no_tokens(codec, spectra):
    ids, mask = codec.encode_masked(spectra[:0])
    assert ids.shape == mask.shape == (0, 69)
    assert len(codec.decode(ids)) == 0


def test_decoding_is_on_the_surveys_own_grid_or_the_one_asked_for(codec, spectra, tools):
    ids = codec.encode(spectra)
    assert len(codec.decode(ids).wavelength) == 7781
    sdss = codec.of("sdss_spectrum").decode(ids, threshold=1)
    assert sdss.flux.shape == (6, 4801)
    # SDSS begins before the latent grid and ends after it.
    assert np.array_equal(sdss.mask[0], codec.grid.overlaps(sdss.wavelength))
    assert (sdss.ivar == 0).all()
    asked = np.array([400.0, 400.1, 700.0])
    assert np.array_equal(codec.decode(ids, wavelength=asked).wavelength, asked)
    other = make(replace(CONFIG, modalities=("mine_spectrum",)))
    assert len(other.decode(ids).wavelength) == 2176


def test_wrong_input_is_refused(codec, spectra):
    with pytest.raises(TypeError, match="found a Scalar"):
        codec.encode(Scalar(np.ones(3)))
    with pytest.raises(ValueError, match="Divide by ten"):
        codec.encode(Spectrum(spectra.flux, None, None, spectra.wavelength * 10))
    with pytest.raises(ValueError, match="found no pixels"):
        codec.encode(Spectrum(np.ones((2, 0)), wavelength=np.empty(0)))


def test_wrong_tokens_are_refused(codec, spectra):
    ids = codec.encode(spectra)
    with pytest.raises(ValueError, match=r"shape \(object, 69\)"):
        codec.decode(ids[:, :-1])
    with pytest.raises(ValueError, match=r"shape \(object, 69\)"):
        codec.decode(ids.float())
    for wrong in (-1, 1024):
        ids[3, 7] = wrong
        with pytest.raises(ValueError, match=rf"tokens 1 … 68, lie in 0 … 1023; found .*{wrong}"):
            codec.decode(ids)


def test_wrong_configurations_are_refused():
    for change, message in (
        ({"modalities": ()}, "at least one modality"),
        ({"encoder_depths": (1, 1)}, "as many depths as dims"),
        ({"decoder_dims": (16, 16, 8, 1)}, "2 channels"),
        ({"wavelength_nm": (350.0, 0.3, 1000)}, "multiple of 32"),
        ({"quantiser": "vq"}, "'lfq' or 'fsq'"),
        ({"levels": (4, 4)}, "levels of 2"),
        ({"normalisation": "mean"}, "'native' or 'aion'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **change)


def test_a_wrong_unit_is_counted(codec, spectra):
    assert codec.count_outside(spectra) <= 2  # the faint ones
    tiny = Spectrum(spectra.flux * 1e-17, None, spectra.mask, spectra.wavelength)
    assert codec.count_outside(tiny) == 6


def test_bf16_stays_close_and_leaves_the_codec_alone(codec, spectra):
    exact = codec.encode(spectra)
    fast = codec.of("desi_spectrum")
    fast.precision = "bf16"
    assert torch.equal(fast.encode(spectra)[:, 0], exact[:, 0])
    assert (fast.encode(spectra) == exact).float().mean() > 0.7
    flux, _ = codec.reconstruct(exact, spectra.wavelength)
    close, _ = fast.reconstruct(exact, spectra.wavelength)
    assert (close - flux).abs().median() < 0.02 * flux.abs().median()
    assert torch.equal(codec.encode(spectra), exact)
    fast.precision = "int4"
    with pytest.raises(ValueError, match="'float32' or 'bf16'"):
        fast.encode(spectra)


@pytest.mark.parametrize("quantiser", ["lfq", "fsq"])
def test_training_lowers_the_loss_and_all_weights_take_part(quantiser, spectra):
    levels = (2,) * 10 if quantiser == "lfq" else (8, 5, 5, 5)
    codec = make(replace(CONFIG, quantiser=quantiser, levels=levels)).train()
    mask = spectra.mask.copy()
    mask[:, 500:530] = False
    error = np.median(np.abs(spectra.flux), axis=1, keepdims=True) / 10
    ivar = np.broadcast_to(1 / error**2, mask.shape)
    batch = codec.prepare(Spectrum(spectra.flux, ivar, mask, spectra.wavelength))
    optimiser = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss, metrics = codec.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codec.parameters())
    assert losses[-1] < losses[0]
    assert metrics["codes"].shape == (6, 68)
    expected = {"chi2", "mask", "codes"} | (
        {"commitment", "entropy"} if quantiser == "lfq" else set()
    )
    assert metrics.keys() == expected


def test_the_loss_is_chi2_on_the_spectrums_own_pixels(codec, spectra):
    mask = spectra.mask.copy()
    mask[:, 500:530] = False
    given = Spectrum(spectra.flux, spectra.ivar, mask, spectra.wavelength)
    _, metrics = codec.loss(codec.prepare(given))
    flux, bad = codec.reconstruct(codec.encode(given), given.wavelength)
    chi2 = ((given.flux - flux.numpy()) ** 2 * given.ivar)[mask]
    assert float(metrics["chi2"]) == pytest.approx(chi2.mean(), rel=1e-3)
    entropy = -np.log(np.where(mask, 1 - bad.numpy(), bad.numpy())).mean()
    assert float(metrics["mask"]) == pytest.approx(entropy, rel=1e-3)


def test_the_report_goes_through_the_tokens(codec, spectra):
    mask = spectra.mask.copy()
    mask[:, 500:530] = False
    mask[1] = False
    figures = codec.report(Spectrum(spectra.flux, spectra.ivar, mask, spectra.wavelength))
    assert figures.keys() == {
        "r2", "r2_shape", "chi2_per_pixel_median", "chi2_per_pixel_90", "mask_auc",
        "codes_used_fraction", "code_entropy_bits"
    }  # fmt: skip
    assert 0 < figures["codes_used_fraction"] <= 1


def test_figures_of_a_perfect_and_of_a_constant_reconstruction(spectra):
    within = np.ones(len(spectra.wavelength), bool)
    mask = spectra.mask.copy()
    mask[:, :100] = False
    given = Spectrum(spectra.flux, spectra.ivar, mask, spectra.wavelength)
    perfect = reconstruction_figures(given, spectra.flux, (~mask).astype(float), within)
    assert perfect["r2"] == perfect["r2_shape"] == perfect["mask_auc"] == 1
    assert perfect["chi2_per_pixel_90"] == 0
    mean = np.full_like(spectra.flux, given.flux[mask].mean())
    assert reconstruction_figures(given, mean, mean, within)["r2"] == pytest.approx(0, abs=1e-6)
    nothing = Spectrum(spectra.flux, None, np.zeros_like(mask), spectra.wavelength)
    assert reconstruction_figures(nothing, mean, mean, within) == {}


def test_wide_gaps_are_not_bridged():
    wavelength = np.arange(400.0, 420.0, 0.1)
    grid = LatentGrid(395.0, 0.08, 400, gap_nm=1.0)
    flux = torch.from_numpy(wavelength[None]).float()
    good = torch.ones(1, 200, dtype=torch.bool)
    good[:, 50:58] = False  # 404.9 … 405.8: 0.9 nm
    good[:, 100:115] = False  # 409.9 … 411.5: 1.6 nm
    placed, istd = grid.place(flux, torch.ones(1, 200), good, wavelength)
    own = grid.wavelength
    small, wide = (own > 404.95) & (own < 405.75), (own > 409.91) & (own < 411.49)
    np.testing.assert_allclose(placed[0, small], own[small], rtol=1e-6)
    assert (istd[0, small] < 0.6).all()
    assert (placed[0, wide] == 0).all()
    assert (istd[0, wide] == 0).all()
    known = (own >= 400) & (own <= 419.9) & ~wide & ~small
    known &= (np.abs(own - 409.9) > 0.1) & (np.abs(own - 411.5) > 0.1)
    np.testing.assert_allclose(placed[0, known], own[known], rtol=1e-6)


def test_an_isolated_good_pixel_on_a_grid_point_counts():
    wavelength = 400 + 0.08 * np.arange(50)
    grid = LatentGrid(400.0, 0.08, 64, gap_nm=0.2)
    good = torch.zeros(1, 50, dtype=torch.bool)
    good[:, [0, 20]] = True
    placed, istd = grid.place(torch.full((1, 50), 3.0), torch.ones(1, 50), good, wavelength)
    assert placed[0].nonzero().flatten().tolist() == [0, 20]
    assert istd[0, [0, 20]].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert istd[0].count_nonzero() == 2
