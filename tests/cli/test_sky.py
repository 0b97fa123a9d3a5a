"""Sky stores from end to end, through the commands: files in, batches of tensors out."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import omnisky
from omnisky.cli import main
from omnisky.cli.sky.progress import CountedReads, _stages, once_each, resumable, unfinished
from omnisky.cli.sky.sources import files_of, paired, selection_of
from omnisky.data.positions import TableColumns, places_of
from omnisky.data.positions import read as read_positions
from omnisky.surveys.survey import Problems

pytest.importorskip("cdshealpix", reason="needs omnisky[data]")


def succeed(*arguments) -> None:
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_survey_files) -> Path:
    """Return a folder with survey files, the stores made of them, and a match."""
    folder = tmp_path_factory.mktemp("sky")
    write_survey_files(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        tractor = "tractor-*.fits"  # a pattern that no shell has expanded
        succeed(
            *("ingest", "legacysurvey", "--catalog", tractor, "--images", "bricks"),
            *("--out", "sky/legacysurvey"),
        )
        succeed("ingest", "desi", "--catalog", "coadd-1-2-thru3.fits", "--out", "sky/desi")
        succeed("ingest", "sdss", "--catalog", "sdss", "--out", "sky/sdss")
        succeed(
            *("match", "sky/legacysurvey", "sky/desi", "--radius-arcsec", 1),
            *("--out", "sky/ls_x_desi"),
        )
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def desk(made, monkeypatch):
    """Work in that folder."""
    monkeypatch.chdir(made)
    return made


def test_python_as_the_pages_show_it(desk):
    ls, desi = omnisky.open("sky/legacysurvey"), omnisky.open("sky/desi")
    assert (len(ls), len(desi)) == (8, 6)
    pairs = omnisky.match(ls, desi, radius_arcsec=1.0)
    assert len(pairs) == 6
    np.testing.assert_allclose(pairs.separation_arcsec, 0.2, atol=1e-6)
    assert {"legacysurvey.object_id", "desi.object_id"} <= set(pairs.to_table().colnames)
    seen = []
    with pairs.stream(batch_size=4, shuffle=True, seed=0) as stream:
        for batch in stream:
            image, spectrum = batch["legacysurvey.legacysurvey_image"], batch["desi.desi_spectrum"]
            assert image.flux.shape[1:] == (4, 160, 160)
            assert spectrum.flux.shape[1:] == (7781,)
            assert (spectrum.mask.sum(dim=1) == 80).all()
            seen += batch["desi.objects"].object_id.tolist()
    assert sorted(seen) == list(range(100, 106))


def test_a_match_on_disk_streams_too(desk):
    pairs = omnisky.open("sky/ls_x_desi")
    with pairs.stream(batch_size=6) as stream:
        (batch,) = list(stream)
    assert batch["desi.desi_z"].mask.all()


def test_cut_outs_are_those_of_the_brick(desk):
    from omnisky.data.bricks import Bricks
    from omnisky.data.cutout import cut_out

    objects = omnisky.open("sky/legacysurvey").read()
    image = objects.observations["legacysurvey_image"]
    sky = np.stack([objects.ra_deg, objects.dec_deg], axis=1)
    expected = cut_out(Bricks("bricks"), sky)
    np.testing.assert_array_equal(image.flux, expected.flux)
    np.testing.assert_array_equal(image.mask, expected.mask)
    np.testing.assert_allclose(image.psf_fwhm_arcsec, 1.2, rtol=1e-6)


def test_info_on_stores_matches_and_surveys(desk, run):
    _, printed, error = run("info", "sky/legacysurvey")
    assert error == ""
    for text in ("8 of legacysurvey", "packed", "4 × 160 × 160", "1 file", "nmgy"):
        assert text in printed
    _, printed, _ = run("info", "sky/ls_x_desi")
    assert "1 arcsec" in printed
    assert "sky/desi" in printed
    _, printed, _ = run("info", "legacysurvey")
    assert "extended_griz_z21" in printed
    _, printed, _ = run("info", "gaia")
    assert "parallax_error > 10 (default)" in printed


def test_selection_and_codec(desk, run, tmp_path):
    code, printed, _ = run(
        *("ingest", "legacysurvey", "--catalog", "tractor-0100p000.fits", "--images", "bricks"),
        *("--selection", "extended_griz_z21", "--size", 32, "--bands", "z,g", "--codec", "q16"),
        *("--out", tmp_path / "few"),
    )
    assert code == 0
    assert "7 objects of legacysurvey, 1 partition(s)" in printed  # the star is left out
    few = omnisky.open(tmp_path / "few")
    image = few.read().observations["legacysurvey_image"]
    assert image.flux.shape == (7, 2, 32, 32)
    assert image.bands == ("z", "g")
    assert few.provenance["selection"] == "extended_griz_z21"
    assert few.columns["legacysurvey_image_flux"].codec == "q16"


def test_pack_and_verify(desk, run, tmp_path):
    packed = tmp_path / "packed"
    code, printed, _ = run("pack", "sky/desi", "--out", packed, "--codec", "q16")
    assert code == 0
    assert "6 objects of desi" in printed
    code, printed, _ = run("verify", packed)
    assert (code, printed.split(": ")[1][-24:]) == (0, " are as they were written\n"[-24:])
    (partition,) = omnisky.open(packed).partitions
    with open(partition.path, "r+b") as file:
        file.seek(300)
        byte = file.read(1)
        file.seek(300)
        file.write(bytes([byte[0] ^ 4]))
    code, printed, error = run("verify", packed)
    assert code == 2
    assert "Npix=" in printed
    assert "is damaged in 1 places" in error


def test_interchange(desk, run, tmp_path):
    out = tmp_path / "lists"
    assert run("pack", "sky/desi", "--out", out, "--profile", "interchange")[0] == 0
    assert omnisky.open(out).profile == "interchange"


def test_more_than_two_surveys_with_missing_partners(desk, run, tmp_path):
    code, printed, _ = run(
        *("match", "sky/legacysurvey", "sky/desi", "sky/sdss", "--radius-arcsec", 1),
        *("--how", "left", "--names", "ls,desi,sdss", "--out", tmp_path / "three"),
    )
    assert code == 0
    assert "8 groups within 1 arcsec, 8 of ls, 6 of desi, 6 of sdss; median" in printed
    assert omnisky.open(tmp_path / "three").present["sdss"].sum() == 6


def test_several_partners_and_overwriting(desk, run, tmp_path):
    command = ["match", "sky/legacysurvey", "sky/desi", "--out", tmp_path / "m"]
    assert run(*command, "--radius-arcsec", 12, "--neighbors", 3)[0] == 0
    several = omnisky.open(tmp_path / "m")
    assert not several.options.one_to_one
    assert len(several) > 12
    code, _, error = run(*command, "--radius-arcsec", 1)
    assert (code, "add --overwrite" in error) == (2, True)
    assert run(*command, "--radius-arcsec", 1, "--overwrite")[0] == 0
    assert len(omnisky.open(tmp_path / "m")) == 6


def test_no_pair_is_said(desk, run, tmp_path):
    table = tmp_path / "far.csv"
    table.write_text("ra,dec,gaia_g\n200,1,15\n")
    assert run("ingest", "table", "--catalog", table, "--out", tmp_path / "far")[0] == 0
    out = tmp_path / "m"
    code, printed, error = run(
        "match", "sky/desi", tmp_path / "far", "--radius-arcsec", 1, "--out", out
    )
    assert code == 0
    assert "0 pairs" in printed
    assert "no pair within 1 arcsec" in error
    assert "groups" in run("info", out)[1]


@pytest.fixture
def positions(tmp_path):
    path = tmp_path / "positions.csv"
    path.write_text("name,ra,dec\nnear,10.001389,0.0005\nedge,10.0070,0.0005\n")
    return path


def test_cutout_at_positions_in_a_store_and_in_a_file(desk, run, tmp_path, positions):
    command = ["cutout", "bricks", "--positions", positions, "--size", 48]
    assert run(*command, "--out", tmp_path / "stamps")[0] == 0
    assert run(*command, "--out", tmp_path / "stamps.fits")[0] == 0
    objects = omnisky.open(tmp_path / "stamps").read()
    image = objects.observations["legacysurvey_image"]
    with fits.open(tmp_path / "stamps.fits") as hdus:
        hdus.verify("exception")
        assert hdus["OBJECTS"].data["object_id"].tolist() == ["near", "edge"]
        assert hdus["FLUX"].header["BANDS"] == "g,r,i,z"
        order = [objects.object_id.tolist().index(n) for n in ("near", "edge")]
        np.testing.assert_array_equal(hdus["FLUX"].data, image.flux[order])
        np.testing.assert_array_equal(hdus["MASK"].data.astype(bool), image.mask[order])
        assert not hdus["MASK"].data[1].all()  # beyond the edge of the brick
    code, _, error = run(*command, "--out", tmp_path / "stamps.fits")
    assert (code, "exists" in error) == (2, True)
    assert run(*command, "--out", tmp_path / "stamps.fits", "--overwrite")[0] == 0


def test_cutout_of_a_store_equals_that_of_the_images(desk, run, tmp_path):
    from omnisky.data.bricks import Bricks
    from omnisky.data.cutout import cut_out

    out = tmp_path / "middle"
    for size in (64, 65):
        code, _, _ = run(
            *("cutout", "sky/legacysurvey", "--positions", "tractor-0100p000.fits"),
            *("--size", size, "--bands", "r", "--out", f"{out}{size}"),
        )
        assert code == 0
        objects = omnisky.open(f"{out}{size}").read()
        found = objects.observations["legacysurvey_image"]
        sky = np.stack([objects.ra_deg, objects.dec_deg], axis=1)
        expected = cut_out(Bricks("bricks"), sky, size, ["r"])
        np.testing.assert_array_equal(found.flux, expected.flux)
        np.testing.assert_array_equal(found.ivar, expected.ivar)
        np.testing.assert_allclose(found.offset_pixels, expected.offset_pixels, atol=1e-6)


def test_positions_without_an_image_are_left_out_and_reported(desk, run, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,ra,dec\n1,10.001389,0.0005\n2,50,3\n3,,1\n")
    out = tmp_path / "stamps"
    command = ["cutout", "bricks", "--positions", path, "--size", 16, "--out", out]
    code, _, error = run(*command)
    assert code == 2
    assert f"{path}, row 2 (object 3): position" in error
    code, printed, _ = run(*command, "--on-error", "quarantine")
    assert code == 0
    assert "1 objects" in printed
    told = [json.loads(line) for line in (out / "problems.jsonl").read_text().splitlines()]
    assert any("lies in none of the 1 bricks" in p["reason"] for p in told)
    code, _, error = run(
        *("cutout", "sky/legacysurvey", "--positions", path, "--size", 16),
        *("--on-error", "quarantine", "--out", tmp_path / "one.fits"),
    )
    assert code == 0
    with fits.open(tmp_path / "one.fits") as hdus:
        assert hdus["OBJECTS"].data["object_id"].tolist() == [1]


def test_bad_files_are_left_out_and_reported(desk, run, tmp_path):
    bad = tmp_path / "spec-bad.fits"
    bad.write_bytes(Path("sdss/spec-1-2-0000.fits").read_bytes()[:9000])
    command = ["ingest", "sdss", "--catalog", "sdss", bad, "--out", tmp_path / "s"]
    code, _, error = run(*command)
    assert code == 2
    assert "spec-bad.fits" in error
    code, printed, _ = run(*command, "--on-error", "quarantine")
    assert code == 0
    assert "6 objects of sdss" in printed
    assert "left out: 1 problems" in printed
    assert "spec-bad.fits" in (tmp_path / "s" / "problems.jsonl").read_text()
    assert "1 (problems.jsonl)" in run("info", tmp_path / "s")[1]
    code, _, error = run(
        *("ingest", "sdss", "--catalog", bad, "--out", tmp_path / "none"),
        *("--on-error", "quarantine"),
    )
    assert code == 2
    assert "no objects came from" in error
    assert "left out: 1 problems" in error


def test_a_table_of_ones_own(desk, run, tmp_path):
    table = Table(
        {
            "name": ["a", "b", "c"],
            "alpha": [0.5, 23.9999, 12.0],
            "delta": [0.0, -89.0, 89.5],
            "phot_g_mean_mag": [12.0, 13.0, 14.0],
            "age": np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False]),
            "pmra": [1.0, 2.0, 3.0],
            "pmdec": [1.0, 2.0, 3.0],
            "ref_epoch": [2016.0] * 3,
        },
        units={"alpha": "hourangle", "delta": "deg", "age": "Gyr", "pmra": "mas / yr"},
    )
    path = tmp_path / "mine.ecsv"
    table.write(path)
    command = ["ingest", "table", "--catalog", path, "--ra", "alpha", "--dec", "delta"]
    code, _, error = run(*command, "--keep", "age", "--out", tmp_path / "mine")
    assert (code, error) == (0, "")
    store = omnisky.open(tmp_path / "mine")
    objects = store.read()
    objects = objects[np.argsort(objects.object_id)]
    assert objects.object_id.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(objects.ra_deg, [7.5, 359.9985, 180.0])
    assert objects.observations["age"].mask.tolist() == [True, False, True]
    assert store.declaration("age").unit == "Gyr"
    assert objects.observations["gaia_g"].value.tolist() == [12, 13, 14]
    assert objects.pm_ra.value.tolist() == [1, 2, 3]
    assert objects.epoch.value.tolist() == [2016.0] * 3


def test_traps_of_tables():
    ids = Table({"specobjid": np.array([10546534355484037120], "u8"), "ra": [-10.0], "dec": [1.0]})
    places = places_of(ids, TableColumns(), "t")
    assert places.object_id.tolist() == ["10546534355484037120"]
    assert places.ra_deg.tolist() == [350.0]
    with pytest.warns(UserWarning, match=r"ra and dec of type float32 put positions up to 0\.06"):
        places_of(Table({"ra": np.ones(1, "f4"), "dec": np.ones(1, "f4")}), TableColumns(), "t")
    with pytest.raises(ValueError, match="unit 'mag' cannot be converted to deg"):
        places_of(Table({"ra": [1.0], "dec": [1.0]}, units={"ra": "mag"}), TableColumns(), "t")
    missing = np.ma.masked_array([1, 2], [False, True])
    with pytest.raises(ValueError, match=r"'id' must be whole numbers or text.* 1 are missing"):
        places_of(Table({"id": missing, "ra": [1.0, 2], "dec": [1.0, 2]}), TableColumns(), "t")


def test_rows_of_tables_without_position_or_twice_are_problems(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,ra,dec,j\n1,10,1,9\n2,,1,9\n1,11,1,9\n3,12,95,9\n")
    problems = Problems("quarantine")
    (objects,) = read_positions(path, problems=problems)
    assert objects.object_id.tolist() == [1]
    assert [p.row for p in problems.found] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"row 1 \(object 2\)"):
        list(read_positions(path))
    path.write_text("ra,dec,j\n10,1,9\n")
    with pytest.raises(ValueError, match="several tables need one"):
        list(read_positions(path, identified=True))
    path.write_text("id,ra,dec,j,epoch\n1,10,1,9,57388\n")
    with pytest.raises(ValueError, match=r"Julian years such as 2016\.0; found 57388 in row 0"):
        list(read_positions(path))


def test_coarse_positions_are_said_once(desk, run, tmp_path):
    count = 5000
    Table(
        {
            "id": np.arange(count),
            "ra": np.linspace(0, 350, count, dtype="f4"),
            "dec": np.zeros(count),
            "j": np.full(count, 9.0),
        }
    ).write(tmp_path / "t.fits")
    code, _, error = run(
        "ingest", "table", "--catalog", tmp_path / "t.fits", "--out", tmp_path / "s"
    )
    assert code == 0
    assert error.count("float32") == 1


def test_once_each():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with once_each():
            for number in range(5):
                warnings.warn(f"x: {number} of 10 values", stacklevel=1)
            warnings.warn("another", stacklevel=1)
    assert [str(w.message) for w in caught] == [
        "x: 0 of 10 values",
        "another",
        "4 more warnings like these, with other numbers",
    ]


@pytest.fixture
def two_tables(tmp_path):
    for number in range(2):
        text = f"id,ra,dec,j\n{number},{10 + number},1,9\n"
        (tmp_path / f"t{number}.csv").write_text(text)
    return tmp_path


def test_stopped_ingest_goes_on(run, two_tables, monkeypatch):
    import omnisky.data.positions

    read, seen = omnisky.data.positions.read, []

    def stopping(path, **options):
        seen.append(Path(path).name)
        if seen.count("t1.csv") == 1 and seen[-1] == "t1.csv":
            raise KeyboardInterrupt
        yield from read(path, **options)

    monkeypatch.setattr(omnisky.data.positions, "read", stopping)
    out = two_tables / "s"
    command = ["ingest", "table", "--catalog", two_tables / "t*.csv", "--out", out]
    code, _, error = run(*command)
    assert code == 130
    assert "the same command goes on where it was" in error
    assert unfinished(out).is_dir()
    assert not out.exists()
    code, printed, _ = run(*command)
    assert code == 0
    assert "2 objects" in printed
    assert seen == ["t0.csv", "t1.csv", "t1.csv"]
    assert not unfinished(out).exists()


def test_a_mistake_does_not_stand_in_the_way(run, two_tables):
    out = two_tables / "s"
    assert run("ingest", "table", "--catalog", two_tables / "t0.csv", "--out", out, "--id", "x")[0]
    assert not unfinished(out).exists()
    assert run("ingest", "table", "--catalog", two_tables / "t0.csv", "--out", out)[0] == 0


def test_what_somebody_else_writes_is_left_alone(tmp_path):
    unfinished(tmp_path / "s").mkdir()
    with pytest.raises(FileExistsError), resumable(tmp_path / "s"):
        raise FileExistsError("another process is writing")
    assert unfinished(tmp_path / "s").exists()


def test_progress_is_told_from_the_journal(tmp_path):
    journal = tmp_path / "journal"
    journal.mkdir()
    assert _stages(journal) == {}
    (tmp_path / "job.json").write_text('{"sources": [1, 2, 3]}')
    (journal / "source-000000.json").write_text("{}")
    assert _stages(journal) == {"source": (1, 3)}
    (journal / "plan.json").write_text('{"partitions": [[0, 1], [0, 2]]}')
    (journal / "partition-0-1.json").write_text("{}")
    assert _stages(journal) == {"source": (1, 3), "partition": (1, 2)}
    (journal / "margin-0-1.json").write_text("{}")
    assert _stages(journal)["margin"] == (1, 2)


def test_progress_counts_objects():
    counted = CountedReads()
    assert list(counted.count(lambda: iter([[1, 2], [3]]))()) == [[1, 2], [3]]
    assert counted.objects == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_make_the_same_store(desk, run, tmp_path):
    pytest.importorskip("dask.distributed", reason="needs omnisky[data]")
    code, _, error = run(
        *("ingest", "legacysurvey", "--catalog", "tractor-0100p000.fits", "--images", "bricks"),
        *("--out", tmp_path / "s", "--workers", 2),
    )
    assert (code, error) == (0, "")
    found, expected = omnisky.open(tmp_path / "s").read(), omnisky.open("sky/legacysurvey").read()
    assert found.object_id.tolist() == expected.object_id.tolist()
    images = (o.observations["legacysurvey_image"].flux for o in (found, expected))
    np.testing.assert_array_equal(*images)
    assert run("verify", tmp_path / "s", "--workers", 1)[0] == 0


def test_files_are_found_in_folders_and_by_patterns(desk):
    assert len(files_of([Path("sdss")], "sdss")) == 6
    assert len(files_of([Path("sdss/spec-*-000[0-2].fits"), Path("sdss")], "sdss")) == 6
    assert [p.name for p in files_of([Path()], "legacysurvey")] == ["tractor-0100p000.fits"]
    assert [p.name for p in files_of([Path()], "desi")] == ["coadd-1-2-thru3.fits"]


def test_companions_are_paired_by_range_else_by_order():
    sources = [Path(f"GaiaSource_{r}.csv.gz") for r in ("000-003", "004-007")]
    spectra = [Path(f"XpContinuous_{r}.csv.gz") for r in ("004-007", "000-003")]
    assert paired(sources, spectra, "coefficients") == spectra[::-1]
    with pytest.raises(ValueError, match="none has the range of GaiaSource_004-007"):
        paired(sources, spectra[1:], "coefficients")
    assert paired([Path("a")], [Path("b")], "redshifts") == [Path("b")]
    with pytest.raises(ValueError, match="names 2 files for 1"):
        paired([Path("a")], [Path("b"), Path("c")], "redshifts")


def test_gaia_with_coefficients_from_a_file_of_its_own(run, tmp_path):
    vector = "(" + ",".join(["1.5"] * 55) + ")"
    (tmp_path / "GaiaSource_1-2.csv").write_text(
        "source_id,ra,dec,parallax,parallax_error\n7,10,1,5,0.1\n8,11,1,1,0.5\n"
    )
    names = "bp_coefficients,bp_coefficient_errors,rp_coefficients,rp_coefficient_errors"
    cells = ",".join([f'"{vector}"'] * 4)
    (tmp_path / "Xp_1-2.csv").write_text(f"source_id,{names}\n7,{cells}\n")
    command = ["ingest", "gaia", "--catalog", tmp_path / "GaiaSource_1-2.csv"]
    command += ["--coefficients", tmp_path / "Xp_1-2.csv", "--out"]
    assert run(*command, tmp_path / "precise")[0] == 0
    found = omnisky.open(tmp_path / "precise").read()
    assert found.object_id.tolist() == [7]  # parallax / error > 10, as the survey's default says
    assert found.observations["gaia_xp_coefficients"].mask.all()
    assert run(*command, tmp_path / "all", "--selection", "none")[0] == 0
    assert len(omnisky.open(tmp_path / "all")) == 2


def test_default_selections_are_those_of_the_readers():
    import inspect
    from importlib import import_module

    for survey in ("legacysurvey", "hsc", "sdss", "desi", "gaia", "lamost"):
        told = inspect.getdoc(import_module(f"omnisky.surveys.{survey}").read)
        name = selection_of(survey, None).name
        assert name == "all" or f'by default ``"{name}"``' in told


BAD = [
    ("ingest", "requires an argument"),
    ("ingest 2df --catalog t.fits --out o", 'Invalid value "2df" for SURVEY'),
    ("ingest sdss --out o", "give files: either --catalog or --cutouts"),
    ("ingest sdss --catalog nowhere --out o", "no file nowhere"),
    ("ingest sdss --catalog no-*.fits --out o", "no file matches no-*.fits"),
    ("ingest sdss --catalog bricks --out o", "bricks holds no spec-*.fits*"),
    ("ingest sdss --catalog sdss --images bricks --out o", "--images is for legacysurvey and hsc"),
    ("ingest sdss --catalog sdss --selection best --out o", "sdss has good_redshift, primary, or"),
    ("ingest table --catalog tractor-0100p000.fits --selection x --out o", "table has none"),
    ("ingest sdss --catalog tractor-0100p000.fits --out o", "no columns flux, loglam"),
    ("ingest sdss --catalog sdss --out sky/desi", "sky/desi exists"),
    ("ingest sdss --catalog sdss --out o --codec zip", 'Invalid value "zip"'),
    ("ingest sdss --catalog sdss --out o --codec q16 --profile interchange", "is for packed"),
    ("ingest sdss --catalog sdss --out o --workers 0", 'Invalid value "0" for --workers'),
    ("ingest sdss --catalog sdss --out o --workers 1 --scheduler a:1", "give one of them"),
    ("ingest sdss --catalog sdss --out o --redshifts x", "--redshifts is for desi"),
    ("ingest sdss --catalog sdss --out o --dataset sdss", "--dataset is for mmu"),
    ("ingest legacysurvey --catalog t.fits --size 9 --out o", "name their --images as well"),
    ("ingest legacysurvey --catalog tractor-0100p000.fits --images sdss --out o", "holds no brick"),
    ("ingest legacysurvey --catalog tractor-0100p000.fits --images x --out o", "no folder x"),
    (
        "ingest legacysurvey --catalog tractor-0100p000.fits --images bricks --bands u --out o",
        "has no image in u",
    ),
    ("ingest legacysurvey --cutouts x --size 9 --out o", "--size is not for --cutouts"),
    ("ingest sdss --cutouts x --out o", "--cutouts is for legacysurvey and hsc"),
    ("ingest hsc --cutouts x --out o", "--cutouts of hsc need --bands"),
    ("ingest mmu --catalog sky/desi --out o", "is a sky store already"),
    ("ingest mmu --catalog bricks --out o", "holds no data of the Multimodal Universe"),
    ("ingest table --catalog coadd-1-2-thru3.fits --out o --ra RA --dec DEC", "no column 'RA'"),
    ("ingest table --catalog tractor-0100p000.fits --out o --keep dec", "no column 'dec'"),
    ("ingest table --catalog tractor-0100p000.fits --out o --id TYP", "did you mean 'TYPE'"),
    ("match sky/desi --radius-arcsec 1 --out o", "requires an argument"),
    ("match sky/desi sky/nothing --radius-arcsec 1 --out o", "no folder sky/nothing"),
    ("match sky/desi bricks --radius-arcsec 1 --out o", "bricks has no omnisky.json"),
    ("match sky/desi sky/desi --radius-arcsec 1 --out o", "Give --names first,second"),
    ("match sky/desi sky/sdss --radius-arcsec 0 --out o", 'Invalid value "0.0"'),
    ("match sky/desi sky/sdss --radius-arcsec 1 --out o --epoch 57388", "must be a Julian year"),
    ("match sky/desi sky/sdss --out o", "requires an argument"),
    ("cutout nowhere --positions tractor-0100p000.fits --out o", "no folder nowhere"),
    ("cutout sdss --positions tractor-0100p000.fits --out o", "no sky store and holds no co-added"),
    ("cutout sky/desi --positions tractor-0100p000.fits --out o", "images to cut out of; found no"),
    ("cutout bricks --positions nothing.csv --out o", "no file nothing.csv"),
    (
        "cutout sky/legacysurvey --positions tractor-0100p000.fits --size 161 --out o",
        "have (160, 160) pixels",
    ),
    (
        "cutout bricks --positions tractor-0100p000.fits --bands g,u --out o",
        "--bands: bricks has g, r, i, z",
    ),
    ("pack nowhere --out o", "no store nowhere"),
    ("pack bricks --out o", "is no sky store"),
    ("verify nowhere", "no folder nowhere"),
    ("verify sky/ls_x_desi", "has no checksums.parquet"),
    ("info bricks", "bricks has no config.json, omnisky.json or match.json"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_one_clear_line(desk, run, line, message):
    code, printed, error = run(*line.split())
    assert (code, printed) == (2, "")
    assert error.startswith("omnisky: ")
    assert error.count("\n") == 1
    assert message in error
    assert not Path("o").exists()
    assert not unfinished(Path("o")).exists()


def test_open_says_what_it_expects(desk):
    with pytest.raises(FileNotFoundError, match=r"bricks has no omnisky\.json"):
        omnisky.open("bricks")
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        omnisky.open("nowhere")


@pytest.mark.slow
@pytest.mark.real_data
def test_native_files_of_all_surveys(run, real_data, tmp_path):
    native, sky = real_data / "native", tmp_path / "sky"
    lines = {
        "sdss": ["sdss", "--catalog", native / "sdss_spec"],
        "desi": ["desi", "--catalog", native / "desi_coadd"],
        "lamost": ["lamost", "--catalog", native / "lamost_spec"],
        "ls": ["legacysurvey", "--catalog", native / "legacysurvey"],
        "cut": ["legacysurvey", "--cutouts", native / "legacysurvey_cutouts"],
    }
    lines["lamost"] += ["--labels", native / "lamost_spec" / "my_data3.csv"]
    counts = {"sdss": 52, "desi": 7, "lamost": 132, "ls": 36, "cut": 1}
    for name, line in lines.items():
        code, printed, error = run("ingest", *line, "--on-error", "quarantine", "--out", sky / name)
        assert code == 0, error
        assert f"{counts[name]} objects of" in printed
        assert run("verify", sky / name)[0] == 0
    assert "truncated" in (sky / "cut" / "problems.jsonl").read_text()
    code, printed, _ = run(
        "match", sky / "ls", sky / "sdss", "--radius-arcsec", 1, "--out", sky / "m", "--how", "left"
    )
    assert code == 0
    assert "36 pairs" in printed


def test_surroundings_go_from_the_table_to_the_stream(desk):
    succeed(
        *("ingest", "legacysurvey", "--catalog", "tractor-0100p000.fits", "--images", "bricks"),
        *("--surroundings", "--selection", "none", "--out", "sky/with_surroundings"),
    )
    store = omnisky.open("sky/with_surroundings")
    found = store.read().observations
    catalog = found["legacysurvey_catalog"]
    assert isinstance(catalog, omnisky.Catalog)
    # Eight sources in a row, 5 arcsec apart: two on either side lie within 12.6 arcsec.
    assert sorted(catalog.mask.sum(1).tolist()) == [3, 3, 4, 4, 5, 5, 5, 5]
    assert found["legacysurvey_segmentation"].present.all()
    pairs = omnisky.match(store, omnisky.open("sky/desi"), radius_arcsec=1.0)
    with pairs.stream(batch_size=6) as stream:
        (batch,) = list(stream)
    assert batch["with_surroundings.legacysurvey_catalog"].x.shape == (6, 20)
    assert batch["with_surroundings.legacysurvey_segmentation"].field.shape == (6, 96, 96)


def test_surroundings_are_of_the_legacy_survey(desk, capsys):
    assert main(["ingest", "desi", "--catalog", "x.fits", "--surroundings", "--out", "y"]) == 2
    assert "--surroundings is for legacysurvey, not for desi" in capsys.readouterr().err
