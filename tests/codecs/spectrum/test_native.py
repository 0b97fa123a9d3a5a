"""Spectra on their own pixels: what reaches the tokens, and what comes back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisky import surveys
from omnisky.codecs import Codec, load_codec
from omnisky.codecs.spectrum.native import NativeSpectrumCodec, NativeSpectrumCodecConfig
from omnisky.mock import Universe
from omnisky.modalities import Scalar, Spectrum, UnknownModalityError
from omnisky.storage import CheckpointError

SURVEYS = {"desi": "desi_spectrum", "sdss": "sdss_spectrum"}
N_ORDINAL = 6


@pytest.fixture(scope="module")
def mock() -> dict[str, Spectrum]:
    universe = Universe(seed=8, n=160)
    return {
        name: universe.observe(survey, modalities=[name]).observations[name]
        for survey, name in SURVEYS.items()
    }


@pytest.fixture(scope="module")
def codec(mock) -> NativeSpectrumCodec:
    """A small codec that has made some steps, so that no weight is zero."""
    torch.manual_seed(0)
    config = NativeSpectrumCodecConfig(
        modalities=tuple(SURVEYS.values()),
        untrained=("lamost_spectrum",),
        n_amplitudes=N_ORDINAL - 2,
        bins=64,
        width=16,
        depth=2,
    )
    codec = NativeSpectrumCodec(config)
    codec.fit(mock)
    optimiser = torch.optim.AdamW(codec.parameters(), lr=1e-2)
    for _ in range(8):
        for name, spectra in mock.items():
            view = codec.of(name)
            loss, _ = view.loss(view.prepare(spectra[:16]))
            loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return codec.eval()


def changed(spectra: Spectrum, **parts) -> Spectrum:
    names = ("flux", "ivar", "mask", "wavelength")
    return Spectrum(*(parts.get(name, getattr(spectra, name)) for name in names))


def test_tokens_lie_in_their_vocabularies_and_bins_not_covered_have_none(codec, mock):
    for name, spectra in mock.items():
        view = codec.of(name)
        ids, mask = view.encode_masked(spectra)
        assert ids.shape == mask.shape == (len(spectra), view.n_tokens)
        assert mask[:, :N_ORDINAL].all()
        edges = view.partition.edges
        good = spectra.wavelength[spectra.mask[0]]
        covered = (edges[1:] > good[0]) & (edges[:-1] < good[-1])
        assert not (mask[0, N_ORDINAL:].numpy() & ~covered).any()
        first = 0
        for group in view.groups:
            part = ids[:, first : first + group.n_tokens]
            assert 0 <= part.min() <= part.max() < group.vocab_size
            first += group.n_tokens


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(list(SURVEYS.values())))
def test_masked_pixels_never_reach_the_tokens(codec, mock, seed, name):
    rng = np.random.default_rng(seed)
    spectra = mock[name][:4]
    mask = spectra.mask & (rng.random(spectra.mask.shape) > 0.2)
    at = rng.integers(0, mask.shape[1] - 400)
    mask[:, at : at + 400] = False
    wild = np.where(mask, spectra.flux, rng.normal(0, 1e6, mask.shape).astype("f4"))
    ivar = np.where(mask, spectra.ivar, rng.random(mask.shape) * 1e6)
    view = codec.of(name)
    a, mask_a = view.encode_masked(changed(spectra, mask=mask))
    b, mask_b = view.encode_masked(changed(spectra, flux=wild, ivar=ivar, mask=mask))
    assert torch.equal(a, b)
    assert torch.equal(mask_a, mask_b)


def test_pixels_without_an_error_count_as_masked(codec, mock):
    spectra = mock["desi_spectrum"][:4]
    off = np.zeros_like(spectra.mask)
    off[:, 2000:2500] = True
    view = codec.of("desi_spectrum")
    a = view.encode_masked(changed(spectra, ivar=np.where(off, 0, spectra.ivar)))[0]
    assert torch.equal(a, view.encode_masked(changed(spectra, mask=spectra.mask & ~off))[0])


@settings(max_examples=5)
@given(seed=st.integers(0, 2**31))
def test_neither_order_nor_company_matters(codec, mock, seed):
    spectra = mock["sdss_spectrum"]
    view = codec.of("sdss_spectrum")
    ids, mask = view.encode_masked(spectra)
    order = np.random.default_rng(seed).permutation(len(spectra))[:7]
    some, some_mask = view.encode_masked(spectra[order])
    assert torch.equal(some, ids[order])
    assert torch.equal(some_mask, mask[order])
    assert torch.equal(view.encode_masked(spectra[int(order[0])])[0][0], ids[order[0]])


@pytest.mark.parametrize(("before", "after"), [(0, 5), (3, 0), (40, 200)])
def test_padding_a_grid_changes_nothing(codec, mock, before, after):
    spectra = mock["sdss_spectrum"][:5]
    wide = ((0, 0), (before, after))
    log = 2.54 + 1e-4 * np.arange(-before, len(spectra.wavelength) + after)
    grid = 10.0**log
    grid[before : before + len(spectra.wavelength)] = spectra.wavelength
    padded = Spectrum(*(np.pad(a, wide) for a in (spectra.flux, spectra.ivar, spectra.mask)), grid)
    view = codec.of("sdss_spectrum")
    for a, b in zip(view.encode_masked(spectra), view.encode_masked(padded), strict=True):
        assert torch.equal(a, b)


def test_only_wavelengths_matter_not_the_name_of_the_survey(codec, mock):
    spectra = mock["sdss_spectrum"][:5]
    a = codec.of("sdss_spectrum").encode_masked(spectra)
    b = codec.of("lamost_spectrum").encode_masked(spectra)
    assert torch.equal(a[0], b[0])


@pytest.mark.parametrize("step_nm", [0.05, 0.13, 0.7])
def test_a_survey_with_another_grid_is_encoded(codec, mock, step_nm):
    """Pixels finer, and five times coarser, than any the codec was trained on."""
    rng = np.random.default_rng(0)
    grid = np.arange(400, 900, step_nm)
    line = 10 * np.exp(-0.5 * ((grid - 656.3) / 2) ** 2)
    flux = 5 + 0.01 * (grid - 650) + line
    error = np.full_like(flux, 0.3)
    spectra = Spectrum(
        (flux + error * rng.normal(size=len(grid)))[None], error[None] ** -2, None, grid
    )
    view = codec.of("lamost_spectrum")
    ids, mask = view.encode_masked(spectra)
    edges = view.partition.edges
    inside = (edges[:-1] > 400) & (edges[1:] < 899)
    assert mask[0, N_ORDINAL:].numpy()[inside].all()
    decoded = view.decode(ids, mask, wavelength=grid)
    np.testing.assert_array_equal(decoded.wavelength, grid)
    far = np.abs(grid - 656.3) > 20
    assert np.abs(np.median(decoded.flux[0][far] / flux[far]) - 1) < 0.1


def test_decoding_masks_bins_without_tokens(codec, mock):
    spectra = mock["desi_spectrum"][:3]
    mask = spectra.mask.copy()
    mask[0, :3000] = False
    mask[1] = False
    view = codec.of("desi_spectrum")
    ids, there = view.encode_masked(changed(spectra, mask=mask))
    assert there.any(1).tolist() == [True, False, True]
    decoded = view.decode(ids, there)
    assert len(decoded.wavelength) == 7781
    assert decoded.present.tolist() == [True, False, True]
    assert not decoded.mask[0, :2950].any()
    assert not decoded.ivar.any()


def test_objects_without_a_good_pixel_are_refused_by_encode(codec, mock):
    spectra = mock["desi_spectrum"][:2]
    mask = spectra.mask.copy()
    mask[1] = False
    with pytest.raises(ValueError, match="1 of 2 objects have no desi_spectrum"):
        codec.encode(changed(spectra, mask=mask))


def test_decoding_and_encoding_again_gives_nearly_the_same_scale(codec, mock):
    """Decoded spectra have no errors; then the scatter of neighbours stands in."""
    view = codec.of("sdss_spectrum")
    ids, mask = view.encode_masked(mock["sdss_spectrum"][:20])
    again, again_mask = view.encode_masked(view.decode(ids, mask))
    assert again_mask[:, 0].all()
    assert (again[:, 0] - ids[:, 0]).abs().float().median() <= 1


def test_faint_spectra_with_a_negative_median_have_a_scale(codec, mock):
    spectra = mock["desi_spectrum"][:5]
    noise = np.random.default_rng(0).normal(-0.2, 1, spectra.flux.shape)
    faint = changed(spectra, flux=noise, ivar=np.ones_like(spectra.ivar))
    view = codec.of("desi_spectrum")
    decoded = view.decode(*view.encode_masked(faint))
    assert np.isfinite(decoded.flux).all()
    assert np.abs(decoded.flux).max() < 30
    assert view.count_outside(faint) == 0
    assert (
        view.count_outside(changed(spectra, flux=spectra.flux * 1e-17, ivar=spectra.ivar * 1e34))
        == 5
    )


def test_encoding_leaves_its_input_alone(codec, mock):
    spectra = mock["desi_spectrum"][:3]
    before = [a.copy() for a in (spectra.flux, spectra.ivar, spectra.mask)]
    codec.encode(spectra)
    for a, b in zip(before, (spectra.flux, spectra.ivar, spectra.mask), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tokens_out_of_range_are_refused(codec, mock):
    ids, mask = codec.encode_masked(mock["desi_spectrum"][:2])
    for place, wrong in ((0, 64), (0, -1), (-40, codec.n_codes)):
        bad = ids.clone()
        bad[0, place] = wrong
        full = torch.ones_like(mask)
        with pytest.raises(ValueError, match=r"lie in 0 …"):
            codec.decode(bad, full)
    full[0, place] = False
    codec.decode(bad, full)
    with pytest.raises(ValueError, match=r"shape \(object, 217\)"):
        codec.decode(ids[:, :-1])


def test_other_measurements_and_units_are_refused(codec, mock):
    spectra = mock["desi_spectrum"][:2]
    with pytest.raises(TypeError, match="is a spectrum"):
        codec.encode(Scalar(np.ones(2)))
    with pytest.raises(ValueError, match="10 Angstrom are one nm"):
        codec.encode(changed(spectra, wavelength=spectra.wavelength * 10))
    with pytest.raises(ValueError, match="must lie on its grid"):
        codec.of("sdss_spectrum").prepare(spectra)
    with pytest.raises(UnknownModalityError):
        codec.of("gaia_xp")


@pytest.mark.parametrize(
    "wrong", [{"quantiser": "vq"}, {"quantiser": "lfq"}, {"n_amplitudes": 0}, {"modalities": ()}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="found"):
        NativeSpectrumCodecConfig(**{"modalities": ("desi_spectrum",), **wrong})


def test_saving_and_loading_keeps_tokens_and_the_file_is_checked(codec, mock, tmp_path):
    codec.save(tmp_path / "spectrum")
    loaded = Codec.from_pretrained(tmp_path / "spectrum", "sdss_spectrum")
    assert loaded.modality == "sdss_spectrum"
    spectra = mock["sdss_spectrum"][:9]
    assert torch.equal(loaded.encode(spectra), codec.of("sdss_spectrum").encode(spectra))
    weights = tmp_path / "spectrum" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load_codec(tmp_path / "spectrum")


def test_the_lookup_free_flavour_trains_and_encodes(mock):
    config = NativeSpectrumCodecConfig(
        modalities=("sdss_spectrum",),
        n_amplitudes=2,
        bins=32,
        levels=(2,) * 10,
        quantiser="lfq",
        width=8,
        depth=1,
    )
    codec = NativeSpectrumCodec(config)
    codec.fit({"sdss_spectrum": mock["sdss_spectrum"]})
    loss, metrics = codec.loss(codec.prepare(mock["sdss_spectrum"][:4]))
    loss.backward()
    assert 0 <= metrics["codes"].min() <= metrics["codes"].max() < 1024
    assert torch.isfinite(codec.autoencoder.encoder.leave.weight.grad).all()


def test_report_says_how_well_it_does(codec, mock):
    report = codec.of("sdss_spectrum").report(mock["sdss_spectrum"])
    assert report["objects"] == len(mock["sdss_spectrum"])
    assert report["chi2_per_pixel_median"] < 5
    assert report["r2"] < report["r2_limit"] + 0.05
    assert 0.5 < report["mask_auc"] <= 1
    assert 0 < report["codes_used_fraction"] <= 1


def test_values_say_what_ordinal_tokens_mean(codec, mock):
    values = codec.values()
    assert values.shape == (N_ORDINAL, 64)
    spectra = mock["sdss_spectrum"]
    ids, _ = codec.encode_masked(spectra)
    median = np.ma.median(np.ma.array(spectra.flux, mask=~spectra.mask), axis=1).filled(1)
    bright = median > 1
    found = values[0][ids[:, 0]].numpy()[bright]
    width = float(values[0, 1] - values[0, 0])
    assert np.abs(found - np.log10(median[bright])).max() < width


def test_the_partition_reads_back_what_it_sums(codec):
    """A straight line survives both ways, on a grid between the knots."""
    grid = surveys.modality("desi_spectrum").wavelength
    pixels = codec.partition.pixels(grid)
    flux = (1 + 0.01 * grid)[None]
    weight = pixels.on_knots(np.ones_like(flux))
    value = pixels.on_knots(flux) / np.where(weight > 0, weight, 1)
    there = torch.from_numpy(pixels.bins_with(flux > 0))
    read, covered = pixels.read(torch.from_numpy(value), there)
    assert covered.all()
    np.testing.assert_allclose(read[0, 5:-5], flux[0, 5:-5], rtol=1e-4)


def test_the_codec_that_ships_keeps_its_figures_on_new_mock_spectra():
    codec = Codec.from_pretrained("spectrum", "sdss_spectrum")
    assert isinstance(codec, NativeSpectrumCodec)
    universe = Universe(seed=778, n=200)
    for survey, name in SURVEYS.items():
        spectra = universe.observe(survey, modalities=[name]).observations[name]
        report = codec.of(name).report(spectra)
        assert report["chi2_per_pixel_median"] < 1.1
        assert report["chi2_per_pixel_90"] < 3
        # One galaxy with extreme lines can decide it for all: 0.98 is for thousands of objects.
        assert report["r2"] > 0.9
        assert report["mask_auc"] > 0.9


def test_encoding_and_counting_at_once_are_the_two_alone(codec, mock):
    of = codec.of("desi_spectrum")
    spectra = changed(mock["desi_spectrum"], flux=1e9 * mock["desi_spectrum"].flux)
    ids, mask, outside = of.encode_counted(spectra)
    wanted = of.encode_masked(spectra)
    assert torch.equal(ids, wanted[0])
    assert torch.equal(mask, wanted[1])
    assert outside == of.count_outside(spectra) > 0
