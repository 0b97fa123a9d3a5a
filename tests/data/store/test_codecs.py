"""Every codec gives back what it promises, whatever the pixels are."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from omnisky.data.store.codecs import decode_rows, default_codec, encode_rows

LOSSLESS = 0


def there_and_back(codec, rows, ivar=None):
    coded = encode_rows(codec, rows, ivar)
    out = np.full(rows.shape, 7, rows.dtype)
    decode_rows(codec, coded, out)
    return coded, out


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 300)), elements=floats))
def test_lossless_gives_the_same_bits(rows):
    _, out = there_and_back("lossless", rows)
    assert (out.view(np.uint32) == rows.view(np.uint32)).all()


@given(hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 300))))
def test_bits_give_the_same_mask(mask):
    _, out = there_and_back("bits", mask)
    assert (out == mask).all()


@st.composite
def noisy_rows(draw):
    """Return rows of flux and inverse variance over a wide range, with bad pixels."""
    size = draw(st.integers(1, 400))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-12, 12))
    spread = draw(st.sampled_from([0.0, 0.5, 3.0]))
    sigma = scale * 10 ** rng.normal(0, spread, (2, size))
    contrast = draw(st.sampled_from([1.0, 30.0, 1000.0, 3000.0]))
    flux = rng.normal(size=(2, size)) * sigma * contrast
    ivar = 1 / sigma**2
    if draw(st.booleans()):
        bad = rng.random((2, size)) < 0.3
        ivar[bad] = 0
        flux[bad & (rng.random((2, size)) < 0.5)] = 0
    narrow = ivar.max() < 3e38 and draw(st.booleans())
    return flux.astype(np.float32), ivar.astype(np.float32 if narrow else np.float64)


@settings(max_examples=200)
@given(noisy_rows())
def test_q16_is_within_a_thirtysecond_of_sigma(rows):
    flux, ivar = rows
    _, out = there_and_back("q16", flux, ivar)
    error = np.abs(out.astype(np.float64) - flux) * np.sqrt(ivar.astype(np.float64))
    assert error.max() <= 1 / 32


@settings(max_examples=200)
@given(noisy_rows())
def test_log16_is_within_its_documented_error(rows):
    _, ivar = rows
    _, out = there_and_back("log16", ivar)
    assert ((out == 0) == (ivar == 0)).all()
    known = ivar > 0
    assert np.abs(out[known].astype(np.float64) / ivar[known] - 1).max(initial=0) <= 1.4e-3


def test_q16_falls_back_to_lossless_row_by_row():
    noise = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
    ivar = np.ones_like(noise)
    noise[1, 3] = 1e6  # beyond int16
    noise[2, 3] = np.nan
    ivar[3] = 0  # no pixel says how finely
    coded, out = there_and_back("q16", noise, ivar)
    assert [blob[0] == LOSSLESS for blob in coded] == [False, True, True, True]
    np.testing.assert_array_equal(out[1:], noise[1:])


def test_q16_keeps_masked_pixels_zero_and_follows_known_ones():
    noise = np.random.default_rng(0).normal(size=(1, 500)).astype(np.float32)
    ivar = np.ones_like(noise)
    noise[0, 128:256], ivar[0, 128:256] = 0, 0  # a block of masked pixels
    noise[0, 300], ivar[0, 300] = 5.0, 0  # good, but without inverse variance
    coded, out = there_and_back("q16", noise, ivar)
    assert coded[0][0] != LOSSLESS
    assert not out[0, 128:256].any()
    assert abs(out[0, 300] - 5.0) <= 1 / 32


def test_q16_makes_noise_three_times_smaller():
    noise = np.random.default_rng(0).normal(size=(2, 5, 160, 160)).astype(np.float32)
    coded, _ = there_and_back("q16", noise, np.ones_like(noise))
    assert len(coded[0]) < noise[0].nbytes / 3


@pytest.mark.parametrize("codec", ["lossless", "q16", "log16", "bits"])
def test_a_damaged_or_foreign_row_is_refused(codec):
    rows = np.random.default_rng(0).uniform(1, 2, (1, 400)).astype(np.float32)
    rows = rows > 1.5 if codec == "bits" else rows
    coded = encode_rows(codec, rows, np.ones(rows.shape, np.float32))
    for blob in (coded[0][:20], b"", b"\xff" + coded[0][1:]):
        with pytest.raises(ValueError, match="damaged or of another shape"):
            decode_rows(codec, [blob], np.empty_like(rows))
    with pytest.raises(ValueError, match="damaged or of another shape"):
        decode_rows(codec, coded, np.empty((1, 300), rows.dtype))


def test_float64_inverse_variances_beyond_float32():
    ivar = np.array([[1e40, 1e45, 0.0], [1e-300, 1e300, 1.0]])
    coded, out = there_and_back("log16", ivar)
    assert coded[0][0] != LOSSLESS
    assert coded[1][0] == LOSSLESS
    np.testing.assert_allclose(out[0], ivar[0], rtol=1.4e-3)


@pytest.mark.parametrize(
    ("codec", "part", "has_ivar", "expected"),
    [
        ("raw", "mask", True, "raw"),
        ("q16", "flux", True, "q16"),
        ("q16", "flux", False, "lossless"),
        ("q16", "ivar", True, "log16"),
        ("q16", "lsf", True, "log16"),
        ("q16", "offset", True, "raw"),
        ("lossless", "mask", True, "bits"),
        ("lossless", "ivar", True, "lossless"),
    ],
)
def test_what_a_codec_means_for_each_part(codec, part, has_ivar, expected):
    assert default_codec(codec, part, has_ivar) == expected


@pytest.mark.parametrize("codec", ["lossless", "q16", "log16", "bits"])
def test_flipped_bits_do_no_harm(codec):
    """A damaged row is refused or decodes to something: it never crashes or warns."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(1, 2, (1, 700)).astype(np.float32)
    rows = rows > 1.5 if codec == "bits" else rows
    (blob,) = encode_rows(codec, rows, np.ones(rows.shape, np.float32))
    for _ in range(500):
        damaged = bytearray(blob)
        for at in rng.integers(0, len(blob), 3):
            damaged[at] ^= 1 << rng.integers(8)
        with suppress(ValueError):
            decode_rows(codec, [bytes(damaged)], np.empty_like(rows))
