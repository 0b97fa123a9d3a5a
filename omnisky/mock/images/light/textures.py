"""Random patterns for the detail of galaxies, made once and looked up anywhere.

A galaxy takes its clumps, filaments and irregularities from a few periodic random fields by
sampling them at coordinates of its own (in its plane, wound up by its spiral, ...), from a random
place: the detail costs a look-up a pixel, and is the same at any pixel scale.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

__all__ = ["SIDE", "sample", "texture"]

SIDE = 256
# Slope of the power spectrum, shortest and longest wavelength in texture pixels.
_KINDS = {
    "clumps": (0.0, 7.0, 40.0),
    "clouds": (-2.2, 4.0, 160.0),
    "swells": (-3.0, 48.0, 256.0),
}
# Two fields in one, real and imaginary part, for displacements in two directions.
_PAIRS = ("swells",)


@lru_cache(maxsize=len(_KINDS))
def texture(kind: str) -> np.ndarray:
    """Return a periodic Gaussian random field, mean 0 and variance 1.

    Parameters
    ----------
    kind : {"clumps", "clouds", "swells"}
        Small round clumps, fractal clouds, or long waves.

    Returns
    -------
    array of float32, shape (SIDE * SIDE,)
        Flat, for `numpy.take`; long waves are complex64, two independent fields.
    """
    slope, shortest, longest = _KINDS[kind]
    rng = np.random.default_rng([list(_KINDS).index(kind), SIDE])
    wave = np.hypot(fft.fftfreq(SIDE)[:, None], fft.rfftfreq(SIDE)[None, :])
    wave[0, 0] = 1.0
    amplitude = wave ** (slope / 2) * np.exp(-((wave * shortest / 2) ** 2))
    amplitude *= 1 - np.exp(-((wave * longest) ** 2))
    amplitude[0, 0] = 0.0
    fields = []
    for _ in range(2 if kind in _PAIRS else 1):
        white = fft.rfft2(rng.standard_normal((SIDE, SIDE)))
        field = fft.irfft2(white * amplitude, s=(SIDE, SIDE))
        fields.append(((field - field.mean()) / field.std()).astype(np.float32))
    found = fields[0] if len(fields) == 1 else (fields[0] + 1j * fields[1]).astype(np.complex64)
    found.setflags(write=False)
    return found.ravel()


def sample(kind: str, x: np.ndarray, y: np.ndarray, at: tuple[float, float]) -> np.ndarray:
    """Return a texture at coordinates, shape as x and y.

    Parameters
    ----------
    kind : str
        See `texture`.
    x, y : array of float32
        Coordinates in texture pixels, of any size: the texture is periodic.
    at : (float, float)
        Uniform numbers in (0, 1): where in the texture to begin.
    """
    # Nearest pixel: textures are smooth over several, and the PSF smooths again. Large constants
    # keep coordinates positive, so that casting cuts downwards everywhere; 16 bits wrap at the end
    # of the texture by themselves.
    column = (x + np.float32(at[0] * SIDE + 64 * SIDE)).astype(np.int32)
    place = (y + np.float32(at[1] * SIDE + 64 * SIDE)).astype(np.int32)
    column &= SIDE - 1
    place *= SIDE
    place |= column
    return texture(kind).take(place.astype(np.uint16), mode="clip")
