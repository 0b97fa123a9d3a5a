"""The shipped tables are whole, small, free to ship, and what the code expects."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from omnisky.mock import tables

NAMES = sorted(path.stem for path in tables.FOLDER.glob("*.npz"))
BYTES = 4_000_000


def test_every_table_is_recorded_and_every_record_has_its_table():
    known = json.loads((tables.FOLDER / "checksums.json").read_text())
    assert sorted(known) == [f"{name}.npz" for name in NAMES]
    for file, digest in known.items():
        assert hashlib.sha256((tables.FOLDER / file).read_bytes()).hexdigest() == digest


def test_tables_are_small():
    assert sum(path.stat().st_size for path in tables.FOLDER.glob("*.npz")) <= BYTES


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_stated(name):
    text = (tables.FOLDER / "DATA_SOURCES.md").read_text()
    _, _, section = text.partition(f"## {name}.npz")
    section = section.partition("\n## ")[0]
    digest = json.loads((tables.FOLDER / "checksums.json").read_text())[f"{name}.npz"]
    assert f"- sha256: {digest}" in section
    stated = dict(line[2:].split(": ", 1) for line in section.splitlines() if line.startswith("- "))
    assert set(stated) == {"origin", "licence", "citation", "changed", "sha256"}
    assert stated["licence"].startswith(("MIT", "BSD-3-Clause", "this project's"))


def test_licences_that_ask_for_it_go_with_the_tables():
    assert "Permission is hereby granted" in (tables.FOLDER / "LICENSE-fastar-astro.txt").read_text(
        encoding="utf8"
    )
    bsd = (tables.FOLDER / "LICENSE-bsd.txt").read_text(encoding="utf8")
    for package in ("speclite", "pypeit", "gaiaxpy"):
        assert package in bsd
    assert bsd.count("Redistribution") >= 3


@pytest.mark.parametrize("name", NAMES)
def test_arrays_are_finite_and_read_only(name):
    for key, values in tables.load(name).items():
        assert np.all(np.isfinite(values)), key
        with pytest.raises(ValueError, match="read-only"):
            values[...] = 0


def test_populations_fit_together():
    t = tables.load("populations")
    n_metal, n_age = len(t["feh"]), len(t["age"])
    assert np.all(np.diff(t["age"]) > 0)
    assert np.all(np.diff(t["wavelength"]) > 0)
    ages = 0
    for name in ("young", "old"):
        metals, some, components = t[f"{name}_coefficients"].shape
        assert metals == n_metal
        assert t[f"{name}_basis"].shape == (components, len(t["wavelength"]))
        assert t[f"{name}_column"].shape == t["wavelength"].shape
        ages += some
    assert ages == n_age
    # Stars die: of each solar mass formed less is left as time goes by (Kroupa: half after 10 Gyr).
    assert t["living"].shape == (n_metal, n_age)
    assert np.all(t["living"][:, 0] > 0.9)
    assert np.all((t["living"][:, -1] > 0.45) & (t["living"][:, -1] < 0.65))


def test_isochrones_rise_in_mass():
    t = tables.load("isochrones")
    assert t["mass"].shape == t["log_t"].shape == (len(t["eep"]), len(t["age"]), len(t["feh"]))
    assert np.all(np.diff(t["mass"], axis=0) > -0.01)


def test_quasar_pairs_point_at_quasars():
    t = tables.load("quasars")
    assert len(t["partner"]) == len(t["red_coefficients"])
    assert t["partner"].min() >= 0
    assert t["partner"].max() < len(t["blue_coefficients"])


def test_damage_is_noticed(tmp_path, monkeypatch):
    shutil.copy(tables.FOLDER / "checksums.json", tmp_path)
    data = bytearray((tables.FOLDER / "quick.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "quick.npz").write_bytes(bytes(data))
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        tables.load.__wrapped__("quick")
    with pytest.raises(FileNotFoundError, match="no table 'stars'"):
        tables.load.__wrapped__("stars")


def test_unknown_tables_are_named():
    with pytest.raises(FileNotFoundError, match=r"there are: .*stars\.npz"):
        tables.load("no such table")
