"""Mock light beside real light: galaxies of the SDSS and DESI, stars of the SDSS."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.ndimage import gaussian_filter1d

from omnisky.mock.sed import BANDS, SedModel
from omnisky.mock.sed.quick import typical
from omnisky.mock.truth import Truth

pytestmark = pytest.mark.real_data


def colours(flux: np.ndarray) -> np.ndarray:
    """Return u - g, g - r, r - i, i - z of the SDSS, shape (object, 4)."""
    index = [BANDS.index(f"sdss_{b}") for b in "ugriz"]
    magnitude = -2.5 * np.log10(flux[:, index])
    return magnitude[:, :-1] - magnitude[:, 1:]


def test_red_and_blue_galaxies_have_the_colours_of_the_sdss(real_data):
    table = pq.read_table(real_data / "sdss_colors_50k.parquet").to_pandas()
    table = table[(table.spec_class == "GALAXY") & (table.r < 18.5)]
    for z in (0.05, 0.10, 0.15):
        near = table[np.abs(table.redshift - z) < 0.01]
        seen = np.stack([near[a] - near[b] for a, b in ("ug", "gr", "ri", "iz")], axis=1)
        # The survey's own u and z are off AB by -0.04 and 0.02 (Abazajian et al. 2004).
        seen += np.array([-0.04, 0.0, 0.0, -0.02])
        red = seen[:, 1] > np.percentile(seen[:, 1], 70)
        blue = seen[:, 1] < np.percentile(seen[:, 1], 25)
        # Galaxies of the table are behind E(B-V) of some 0.03.
        mock = Truth(
            {
                **{
                    name: values
                    for name, values in typical(
                        [z, z], [11.0, 10.0], [-12.3, -9.9], [0.1, 0.4]
                    ).items()
                },
                "ebv": np.full(2, 0.03),
            }
        )
        got = colours(SedModel.load().fluxes(mock, components=False))
        # u - g of our old galaxies is some 0.1 mag too blue.
        np.testing.assert_allclose(got[0], np.median(seen[red], axis=0), atol=0.15)
        np.testing.assert_allclose(got[1], np.median(seen[blue], axis=0), atol=0.20)


def test_old_galaxies_look_like_the_stack_of_desi(real_data):
    from astropy.io import fits

    with fits.open(real_data / "native" / "desi_coadd" / "stack-LRG.fits") as hdus:
        wave = np.asarray(hdus["WAVE"].data, dtype=float)
        real = np.asarray(hdus["FLUX"].data[0], dtype=float)
    part = (wave > 3300.0) & (wave < 5800.0)
    mock = SedModel.load().spectrum(typical(0.45, 11.3, -12.4, 0.05), wave[part] * 1.45)
    ours, theirs = (gaussian_filter1d(x, 8.0) for x in (mock, real[part]))
    ours, theirs = ours / np.median(ours), theirs / np.median(theirs)
    assert np.std(ours - theirs) < 0.06
    # Features alone, the continuum taken out.
    lines = [x / gaussian_filter1d(x, 250.0) for x in (ours, theirs)]
    assert np.corrcoef(*lines)[0, 1] > 0.85


@pytest.mark.parametrize(
    ("kind", "teff", "logg", "tolerance"),
    [
        ("A0", 9000.0, 4.1, 0.10),
        ("F5_+0.0_Dwarf", 6550.0, 4.2, 0.10),
        ("G2_+0.0_Dwarf", 5770.0, 4.4, 0.05),
        ("K3_+0.0_Dwarf", 4800.0, 4.55, 0.06),
        ("M0_+0.0_Dwarf", 3850.0, 4.7, 0.06),
        ("M3_+0.0_Dwarf", 3400.0, 4.9, 0.10),
    ],
)
def test_stars_look_like_those_of_the_sdss(real_data, kind, teff, logg, tolerance):
    with np.load(real_data / "stellar_templates_228.npz", allow_pickle=False) as stored:
        row = list(stored["name"]).index(kind)
        wave, real = 10.0 ** stored["loglam"].astype(float), stored["flux"][row].astype(float)
    good = np.isfinite(real) & (wave > 4300.0) & (wave < 9000.0)
    wave, real = wave[good], real[good]
    star = Truth(
        {
            "object_id": [0],
            "kind": [1],
            "teff": [teff],
            "logg": [logg],
            "feh": [0.0],
            "log_luminosity": [0.0],
            "distance": [100.0],
        }
    )
    mock = SedModel.load().spectrum(star, wave, resolution_fwhm=wave / 2000)
    ours, theirs = (gaussian_filter1d(x, 10.0) / np.median(x) for x in (mock, real))
    assert np.std(ours / theirs * np.median(theirs / ours) - 1) < tolerance
