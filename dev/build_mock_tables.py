"""Build the tables that ship in ``omnisky/mock/tables``; run from the repository root.

    python dev/build_mock_tables.py WHEELS [TABLE ...]

`WHEELS` is a folder with the wheels of fastar-astro 0.1.2 (MIT), speclite 1.0.0, pypeit 2.0.1 and
gaiaxpy 2.1.5 (BSD-3), got with ``pip download --no-deps``. Needs h5py besides what omnisky needs.
All tables take some ten minutes, nearly all of it for ``atmospheres``; naming some builds these.
The order is fixed: later tables are made with earlier ones.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import mock_tables_atmospheres
import mock_tables_filters
import mock_tables_gaia
import mock_tables_populations
import mock_tables_quasars
import mock_tables_quick
import mock_tables_sky
import mock_tables_stars
import numpy as np

from omnisky.mock import tables
from omnisky.mock.sed import bands, populations, stars

OUT = tables.FOLDER
PACKAGES = ("fastar_astro-0.1.2", "speclite-1.0.0", "pypeit-2.0.1", "gaiaxpy-2.1.5")


def save(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write one table, the same bytes each time, and record its sha256."""
    path = OUT / f"{name}.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key, values in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.asarray(values, order="C"), allow_pickle=False)
            # A fixed date: the time of the run must not change the bytes.
            entry = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, stream.getvalue(), zipfile.ZIP_DEFLATED, 9)
    listing = OUT / "checksums.json"
    known = json.loads(listing.read_text()) if listing.is_file() else {}
    known[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    listing.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    # Whatever was made of the old table is stale.
    for cached in (tables.load, bands.band_matrix, stars.library, populations.populations):
        cached.cache_clear()
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def star_tables(assets: Path) -> dict[str, np.ndarray]:
    """Return the stellar library; the tilt of its M dwarfs needs it in place without."""
    arrays = mock_tables_stars.stars(assets)
    save("stars", arrays)
    return arrays | mock_tables_stars.tilts()


def makers(folder: Path) -> dict[str, tuple[dict[str, str], Callable[[], dict[str, np.ndarray]]]]:
    """Return provenance and builder of each table, from unpacked wheels."""
    assets, pypeit = folder / "fastar" / "assets", folder / "pypeit" / "data"
    return {
        "filters": (
            mock_tables_filters.PROVENANCE,
            lambda: mock_tables_filters.filters(folder / "speclite" / "data" / "filters"),
        ),
        "gaia_xp": (
            mock_tables_gaia.PROVENANCE,
            lambda: mock_tables_gaia.gaia_xp(folder / "gaiaxpy" / "config"),
        ),
        "night_sky": (mock_tables_sky.PROVENANCE, lambda: mock_tables_sky.night_sky(pypeit)),
        "quasars": (
            mock_tables_quasars.PROVENANCE,
            lambda: mock_tables_quasars.quasars(pypeit / "telluric" / "models"),
        ),
        "atmospheres": (
            mock_tables_atmospheres.PROVENANCE,
            mock_tables_atmospheres.atmospheres,
        ),
        "isochrones": (
            mock_tables_stars.ISOCHRONES,
            lambda: mock_tables_stars.isochrones(assets),
        ),
        "stars": (mock_tables_stars.PROVENANCE, lambda: star_tables(assets)),
        "populations": (
            mock_tables_populations.PROVENANCE,
            lambda: mock_tables_populations.populations(assets),
        ),
        "quick": (mock_tables_quick.PROVENANCE, mock_tables_quick.quick),
    }


def write_sources(provenances: list[dict[str, str]]) -> None:
    """Write where each table comes from."""
    known = json.loads((OUT / "checksums.json").read_text())
    lines = [
        "# Where the tables of the mock universe come from",
        "",
        "Built by `dev/build_mock_tables.py`; do not edit. Everything here is free to use and to",
        "pass on under the licence stated, with the citation.",
    ]
    for about in provenances:
        size = (OUT / about["table"]).stat().st_size / 1e3
        lines += ["", f"## {about['table']} ({size:.0f} kB)", ""]
        lines += [f"- {key}: {about[key]}" for key in ("origin", "licence", "citation", "changed")]
        lines += [f"- sha256: {known[about['table']]}"]
    lines += [
        "",
        "## Acknowledgements",
        "",
        "MILES, BOSZ and BaSTI-IAC by their teams; Gaia data by ESA/Gaia/DPAC; sky spectra by ESO;",
        "quasar spectra by the SDSS. The MIT licence of fastar-astro asks that its notice go with",
        "copies: it is in `LICENSE-fastar-astro.txt`. speclite, pypeit and gaiaxpy are under the",
        "BSD 3-clause licence; their notices are in `LICENSE-bsd.txt`.",
    ]
    (OUT / "DATA_SOURCES.md").write_text("\n".join(lines) + "\n")


def copy_licences(folder: Path) -> None:
    """Put the licences that ask for it beside the tables."""
    texts = {path.parent.parent.name: path for path in folder.glob("*.dist-info/licenses/LICENSE*")}
    texts |= {path.parent.name: path for path in folder.glob("*.dist-info/LICENSE*")}
    found = {name: texts[f"{name}.dist-info"].read_text().strip() for name in PACKAGES}
    (OUT / "LICENSE-fastar-astro.txt").write_text(found[PACKAGES[0]] + "\n")
    bsd = [f"{name}\n\n{found[name]}" for name in PACKAGES[1:]]
    (OUT / "LICENSE-bsd.txt").write_text(("\n\n" + "-" * 72 + "\n\n").join(bsd) + "\n")


def main(wheels: Path, only: list[str]) -> None:
    """Write every table, or those named, and what is known of all."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in PACKAGES:
            (wheel,) = wheels.glob(f"{name}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        known = makers(folder)
        unknown = set(only) - set(known)
        if unknown:
            sys.exit(f"no table {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        for name, (_, build) in known.items():
            if not only or name in only:
                save(name, build())
        copy_licences(folder)
        write_sources([about for about, _ in known.values()])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
