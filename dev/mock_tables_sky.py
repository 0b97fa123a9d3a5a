"""The emission lines of the night sky for the mock universe, from the wheel of pypeit.

The spectrum is the UVES atlas of Paranal's night sky (Hanuschik 2003, A&A 407, 1157) as pypeit
ships it, averaged in bins and freed of its continuum: that comes from the zodiacal light, moon and
towns, and the mock universe sets its own. Beyond 10 000 Angstrom the OH lines of pypeit's list for
X-shooter continue it (Rousselot et al. 2000, A&A 354, 1134), scaled to the strength of the same
band below.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

PROVENANCE = {
    "table": "night_sky.npz",
    "origin": "pypeit 2.0.1 (wheel): pypeit/data/sky_spec/paranal_sky.fits and "
    "pypeit/data/arc_lines/lists/OH_XSHOOTER_lines.dat",
    "licence": "BSD-3-Clause",
    "citation": "Hanuschik 2003, A&A 407, 1157; Rousselot et al. 2000, A&A 354, 1134; Prochaska "
    "et al. 2020, JOSS 5, 2308 (PypeIt)",
    "changed": "binned to 0.4 Angstrom, continuum removed, noise set to zero, "
    "continued beyond 10 000 Angstrom with listed OH lines",
}

START, STEP, BINS = 3500.0, 0.4, 17400
_SKY = "sky_spec/paranal_sky.fits"
_OH = "arc_lines/lists/OH_XSHOOTER_lines.dat"
# Step of the atlas as shipped, in Angstrom.
_FINE = 0.05
# Unit of the stored integers, in units of the atlas.
_QUANTUM = 0.02
# Smoothed lines fainter than this many times the noise are set to zero.
_LEAST = 1.0
# Lines of the band that both sources have.
_SHARED = (9840.0, 9940.0)
# The atlas has a gap between two settings of the spectrograph, and spikes that no sky has.
_FAULTS = ((8590.0, 8622.0), (6607.0, 6825.0))


def night_sky(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of ``night_sky.npz``.

    Parameters
    ----------
    folder : path
        ``pypeit/data`` of the unpacked wheel of pypeit 2.0.1.

    Returns
    -------
    dict of str to array
        ``grid``: first wavelength (centre of the first bin, Angstrom, vacuum) and step; ``lines``:
        integers that times ``lines_scale`` are the flux density of the lines, in units of the
        atlas: 1e-17 erg s-1 cm-2 Angstrom-1 arcsec-2 within a factor.
    """
    from astropy.io import fits
    from scipy.ndimage import gaussian_filter1d, percentile_filter

    with fits.open(folder / _SKY) as hdus:
        flux, wavelength = (np.asarray(hdu.data, dtype=np.float64) for hdu in hdus[:2])
    listed = (folder / _OH).read_text()
    edges = START + STEP * (np.arange(BINS + 1) - 0.5)
    centres = edges[:-1] + STEP / 2
    sides = wavelength[0] + _FINE * (np.arange(flux.size + 1) - 0.5)
    running = np.concatenate([[0.0], np.cumsum(flux)]) * _FINE
    binned = np.diff(np.interp(edges, sides, running)) / STEP
    known = edges[1:] <= wavelength[-1]
    binned[~known] = 0.0
    base = gaussian_filter1d(percentile_filter(binned, 30, size=75), 30)
    lines = np.where(known, binned - base, 0.0)
    for low, high in _FAULTS:
        lines[(centres > low) & (centres < high)] = 0.0
    below = np.where(lines < np.median(lines), lines, 0.0)
    noise = np.sqrt(gaussian_filter1d(below**2, 150) * 2)
    # The smoothed line says where there is one, so that its wings stay.
    lines[gaussian_filter1d(lines, 2.0) < _LEAST * noise] = 0.0
    lines = lines.clip(0) + _beyond(centres, lines, listed, wavelength[-1])
    return {
        "grid": np.array([START, STEP]),
        "lines": np.rint(lines / _QUANTUM).astype(np.uint16),
        "lines_scale": np.array(_QUANTUM),
    }


def _beyond(centres: np.ndarray, lines: np.ndarray, listed: str, end: float) -> np.ndarray:
    """Return the listed OH lines past the end of the atlas, as strong as it has the same band."""
    rows = [line.split("|") for line in listed.splitlines()[1:]]
    wave, strength = np.array([(float(row[1]), float(row[5])) for row in rows]).T
    shared = (wave > _SHARED[0]) & (wave < _SHARED[1])
    part = (centres > _SHARED[0]) & (centres < _SHARED[1])
    scale = lines[part].sum() * STEP / strength[shared].sum()
    drawn = np.zeros(centres.size)
    for at, amplitude in zip(wave[wave > end], strength[wave > end], strict=True):
        profile = np.exp(-0.5 * ((centres - at) / 0.25) ** 2)
        if profile.sum() > 0:
            drawn += scale * amplitude * profile / (profile.sum() * STEP)
    return drawn
