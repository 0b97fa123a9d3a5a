"""`omnisky mock` writes files and stores that open, resumes, and says what is wrong in one line."""

import gzip
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import omnisky
from omnisky.cli.sky.progress import unfinished
from omnisky.data.tables import read_table

SCRIPT = Path(__file__).with_name("killed_mock.py")
SKY = ["--objects", "30", "--seed", "4", "--area-deg2", "0.02"]


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Return a folder of native files that was written without a stop."""
    from omnisky.cli import main

    out = tmp_path_factory.mktemp("mock") / "sky"
    assert main(["mock", *SKY, "--out", str(out)]) == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_say_that_they_are_mock(sky):
    told = json.loads((sky / "mock.json").read_text())
    assert told["mock"] is True
    assert told["objects"] == 30
    assert told["config"]["seed"] == told["seed"] == 4
    assert {p.name for p in sky.iterdir()} == {
        *("mock.json", "truth.parquet", "legacysurvey", "hsc", "desi", "sdss", "gaia")
    }
    truth = read_table(sky / "truth.parquet")
    assert truth.meta["MOCK"] is True
    assert len(truth) == 30
    assert str(truth["distance"].unit) == "pc"
    universe = omnisky.mock.Universe(
        n=30, config=omnisky.mock.UniverseConfig(seed=4, area_deg2=0.02)
    )
    assert np.array_equal(np.asarray(truth["ra"]), np.asarray(universe.truth["ra"]))
    for path in sky.rglob("*.fits*"):
        assert fits.getval(path, "MOCK", 0) is True
        assert fits.getval(path, "ORIGIN", 1) == "omnisky mock"
    tables = list(sky.rglob("*.csv.gz"))
    assert len(tables) >= 2
    for path in tables:
        assert "MOCK: true, ORIGIN: omnisky mock" in gzip.decompress(path.read_bytes()).decode()
    # Whole or not at all: no traces of writing.
    assert not list(sky.rglob(".writing*"))


@pytest.mark.parametrize("after", [2, 9])
def test_a_killed_command_goes_on(sky, run, tmp_path, after):
    out = tmp_path / "sky"
    line = ["mock", *SKY, "--out", str(out)]
    command = [sys.executable, str(SCRIPT), str(after), *line]
    killed = subprocess.run(command, capture_output=True, timeout=280)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not out.exists()
    assert unfinished(out).exists()
    code, _, error = run("mock", *SKY[:-4], "--seed", "5", "--out", out)
    assert code == 2
    assert "unfinished job that differs" in error
    code, printed, error = run(*line)
    assert code == 0, error
    assert "mock sky of 30 objects" in printed
    assert [p.name for p in tmp_path.iterdir()] == ["sky"]
    assert files_of(out) == files_of(sky)


def test_a_full_disk_is_said_and_the_command_goes_on(sky, run, tmp_path):
    out = tmp_path / "sky"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        code, printed, error = run("mock", *SKY, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, printed) == (2, "")
    assert error.count("\n") == 1
    assert "free some space" in error
    assert not out.exists()
    assert run("mock", *SKY, "--out", out)[0] == 0
    assert files_of(out) == files_of(sky)


def test_surveys_can_be_chosen(sky, run, tmp_path):
    out = tmp_path / "sky"
    code, printed, error = run("mock", *SKY, "--surveys", "gaia,sdss", "--out", out)
    assert code == 0, error
    assert f"{out / 'sdss'}:" in printed
    some = files_of(out)
    assert json.loads(some.pop("mock.json"))["surveys"] == ["sdss", "gaia"]
    whole = files_of(sky)
    assert some == {
        name: data for name, data in whole.items() if name.startswith(("sdss", "gaia", "truth"))
    }


@pytest.mark.slow
def test_native_files_become_stores(sky, run, tmp_path):
    pytest.importorskip("cdshealpix")
    ls, desi, match = (tmp_path / name for name in ("ls", "desi", "match"))
    catalog, images = sky / "legacysurvey" / "tractor", sky / "legacysurvey" / "coadd"
    stamps = ["--images", images, "--size", 64, "--trusted"]
    for line in (
        ["ingest", "legacysurvey", "--catalog", catalog, *stamps, "--out", ls],
        ["ingest", "desi", "--catalog", sky / "desi", "--out", desi],
        ["match", ls, desi, "--radius-arcsec", 1, "--out", match],
    ):
        code, _, error = run(*line)
        assert code == 0, error
    assert len(omnisky.open(match)) >= 5


def test_stores_open_match_and_stream(run, tmp_path):
    pytest.importorskip("cdshealpix")
    out = tmp_path / "sky"
    line = ["mock", *SKY, "--surveys", "legacysurvey,gaia,desi", "--store", out]
    code, printed, error = run(*line)
    assert code == 0, error
    assert "3 mock stores" in printed
    assert [p.name for p in tmp_path.iterdir()] == ["sky"]
    assert json.loads((out / "mock.json").read_text())["mock"] is True
    universe = omnisky.mock.Universe(
        n=30, config=omnisky.mock.UniverseConfig(seed=4, area_deg2=0.02)
    )
    stores = {name: omnisky.open(out / name) for name in ("legacysurvey", "gaia", "desi")}
    for name, store in stores.items():
        assert store.provenance["mock"] is True
        ids, _ = universe.owners(name)
        held = store.coordinates()["object_id"]
        assert sorted(held.tolist()) == sorted(ids.tolist())
        expected = universe.observe(name)
        order = np.argsort(held)
        place = order[np.searchsorted(held[order], expected.object_id)]
        found = store.read(place)
        for modality, measured in expected.observations.items():
            mine = found.observations[modality]
            values = "flux" if hasattr(measured, "flux") else "value"
            assert np.array_equal(getattr(mine, values), getattr(measured, values)), modality
            assert np.array_equal(mine.mask, measured.mask), modality
    pairs = omnisky.match(stores["legacysurvey"], stores["desi"], radius_arcsec=1.0)
    assert len(pairs) > 5
    batch = next(iter(pairs.stream(batch_size=4)))
    assert batch["legacysurvey.legacysurvey_image"].flux.shape == (4, 4, 160, 160)
    assert run(*line)[0] == 2  # it is there


def test_stopped_stores_go_on(run, tmp_path, monkeypatch):
    pytest.importorskip("cdshealpix")
    from omnisky.mock import Universe

    out = tmp_path / "sky"
    line = ["mock", *SKY, "--surveys", "desi,gaia", "--store", out]
    observe = Universe.observe

    def broken(self, survey, *rest, **options):
        if survey == "gaia":
            raise OSError(28, "No space left on device")
        return observe(self, survey, *rest, **options)

    monkeypatch.setattr(Universe, "observe", broken)
    code, _, error = run(*line)
    assert code == 2
    assert "gaia" in error
    assert not out.exists()
    code, _, error = run("mock", *SKY, "--surveys", "desi", "--store", out)
    assert "unfinished universe that differs in surveys" in error
    monkeypatch.undo()
    monkeypatch.delenv("OMNISKY_DEBUG", raising=False)
    made = []
    monkeypatch.setattr(
        Universe, "observe", lambda self, s, *a, **k: (made.append(s), observe(self, s, *a, **k))[1]
    )
    assert run(*line)[0] == 0
    assert set(made) == {"gaia"}
    assert [p.name for p in tmp_path.iterdir()] == ["sky"]


@pytest.mark.parametrize("option", ["--out", "--store"])
def test_a_survey_without_objects_is_said_before_anything_is_written(run, tmp_path, option):
    from omnisky.mock import Universe, UniverseConfig

    def without(seed):
        truth = Universe(n=2, config=UniverseConfig(seed=seed, area_deg2=0.02)).truth
        return truth["in_legacysurvey"].any() and not truth["in_gaia"].any()

    seed = next(filter(without, range(50)))
    some = ["--objects", "2", "--seed", str(seed), "--area-deg2", "0.02"]
    surveys = ["--surveys", "legacysurvey,gaia"]
    code, printed, error = run("mock", *some, *surveys, option, tmp_path / "sky")
    assert (code, printed) == (2, "")
    assert "none of the 2 objects is in gaia" in error
    assert not list(tmp_path.iterdir())


BAD = [
    ("mock", "say where to: --out for files"),
    ("mock --out a --store b", "say where to: --out for files"),
    ("mock stars --out a", 'Invalid value "stars"'),
    ("mock --objects 0 --out a", 'Invalid value "0" for --objects'),
    ("mock --objects -5 --out a", "--objects"),
    ("mock --seed -1 --out a", "--seed"),
    ("mock --area-deg2 0 --out a", 'Invalid value "0.0" for --area-deg2'),
    ("mock --area-deg2 50000 --out a", "area_deg2 must be above 0 and at most 41253"),
    ("mock --area-deg2 40000 --out a", "Take a smaller area_deg2"),
    ("mock --surveys 2df --out a", "--surveys 2df: expected names from legacysurvey, hsc"),
    ("mock --surveys gaia,gaia --out a", "each once; found one twice"),
    ("mock --codec q16 --out a", "--profile, --codec and --margin-arcsec are for --store"),
    (
        "mock --workers 1 --scheduler x:1 --objects 3 --surveys legacysurvey --out a",
        "give one of them",
    ),
    ("mock --out there", "there exists; choose another --out"),
    ("mock --store there", "there exists; choose another --store"),
    ("mock gallery --store a", "a gallery takes --out alone"),
    ("mock gallery --surveys gaia --out a", "a gallery takes --out alone"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_one_clear_line(run, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    code, printed, error = run(*line.split())
    assert (code, printed) == (2, "")
    assert error.startswith("omnisky: ")
    assert error.count("\n") == 1
    assert message in error
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.slow
def test_a_gallery_is_drawn(run, tmp_path):
    out = tmp_path / "gallery"
    code, printed, error = run("mock", "gallery", *SKY, "--out", out)
    assert code == 0, error
    assert "contact sheets of a mock sky" in printed
    sheets = sorted(out.iterdir())
    assert len(sheets) >= 3
    for sheet in sheets:
        assert sheet.suffix == ".png"
        assert sheet.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["gallery"]
    code, _, error = run("mock", "gallery", *SKY, "--out", out)
    assert code == 2
    assert "exists; choose another --out" in error
