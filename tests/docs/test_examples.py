"""What README, tutorial and how-to show is what happens: every example is run."""

import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from omnisky import cli
from omnisky.adapt import fitting
from omnisky.data.tables import write_table
from omnisky.data.usertable import table_from_observations

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
TRAIN_A_CODEC = ROOT / "docs" / "how-to" / "train-a-codec.md"
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def desk(mini, tmp_path, monkeypatch, write_survey_files) -> Path:
    """Return a folder with the tables and survey files that the examples name."""
    # A fit as long as a user's would say nothing more about the examples.
    monkeypatch.setattr(fitting, "_EPOCHS", dict.fromkeys(fitting.ADAPTATIONS, (3, 10_000)))
    monkeypatch.setattr(fitting, "_DIRECT_STEPS", 50)
    monkeypatch.chdir(tmp_path)
    table = table_from_observations(mini.observations, mini.object_id, id_name="source_id")
    table["age"] = 14 - 2 * mini.labels["apogee_logg"].value
    table["age"].unit = "Gyr"
    write_table(table, tmp_path / "mystars.fits")
    del table["age"]
    for name in ("more.fits", "more_stars.fits"):
        write_table(table[:40], tmp_path / name)
    table["age"] = 14 - 2 * mini.labels["apogee_logg"].value
    table.rename_columns(["gaia_xp", "gaia_xp_error", "twomass_j"], ["FLUX", "SIGMA", "Jmag"])
    table["LAMBDA"] = np.tile(mini.observations["gaia_xp"].wavelength, (len(table), 1))
    table["LAMBDA"].unit = "nm"
    write_table(table, tmp_path / "other.fits")
    write_survey_files(tmp_path)
    (tmp_path / "mysky.csv").write_text("name,ra,dec,age\nA,10,0.0005,3\nB,10.001389,0.0005,5\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial_runs(page):
    names: dict = {}
    for cell in blocks(page, r"\{code-cell\}"):
        exec(compile(cell, str(page), "exec"), names)
        plt.close("all")


@pytest.mark.slow
def test_readme_example_runs(desk):
    example, *_ = blocks(ROOT / "README.md", "python")
    assert len(example.splitlines()) <= 20
    names: dict = {}
    exec(example.replace('"gaia-apogee"', '"gaia-apogee-mini"'), names)
    assert names["predicted"].shape == names["lower"].shape == (74, 3)
    assert (names["lower"] <= names["upper"]).all()
    assert names["fe_h"].mean.shape == (10,)


@pytest.mark.slow
def test_sky_examples_run(desk):
    run_commands(ROOT / "README.md", "ingest")
    run_commands(ROOT / "docs/how-to/stream-matched-pairs.md")
    _, example, _ = blocks(ROOT / "README.md", "python")
    names: dict = {}
    exec(example, names)
    assert len(names["pairs"]) == 6
    assert names["image"].flux.shape[1:] == (4, 160, 160)
    for page in ("stream-matched-pairs", "build-a-sky-store"):
        for block in blocks(ROOT / f"docs/how-to/{page}.md", "python"):
            exec(compile(block, page, "exec"), names)
    assert names["who"].present.all()
    assert len(names["table"]) == 6
    assert (desk / "sky" / "red" / "omnisky.json").is_file()


@pytest.mark.slow
def test_own_spectra_example_runs(desk, mini):
    xp = mini.observations["gaia_xp"]
    names = {
        "flux": xp.flux,
        "error": 1 / np.sqrt(xp.ivar),
        "g": mini.observations["gaia_g"].value,
    }
    for block in blocks(ROOT / "docs/how-to/own-spectra-and-labels.md", "python"):
        if "KNeighbors" in block:
            names["age"] = names["age"][: len(names["observations"])]
        exec(block, names)
    assert (desk / "runs" / "from-python" / "config.json").is_file()


@pytest.mark.slow
def test_mock_example_runs():
    names: dict = {}
    for block in blocks(ROOT / "docs/how-to/mock-universe.md", "python"):
        exec(block, names)
    assert names["truth"].meta["MOCK"] is True
    assert names["images"].observations["legacysurvey_image"].present.all()
    assert set(names["spectra"].observations) == {"desi_spectrum", "desi_z"}
    assert len(names["everything"]) == 4
    assert 0.9 < names["right_pairs"] <= 1


def test_add_a_survey_example_is_python():
    for block in blocks(ROOT / "docs/how-to/add-a-survey.md", "python"):
        compile(block, "add-a-survey", "exec")


def commands(page: Path) -> list[list[str]]:
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [part.strip() for line in text.splitlines() for part in line.split(";")]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("omnisky ")]


def run_commands(page: Path, *only: str) -> None:
    for command in commands(page):
        # Training takes minutes; tests/train runs it.
        if command[0] != "train-codec" and (not only or command[0] in only):
            assert cli.main(command) == 0, command


# What a page takes for done.
BEFORE = {"stream-matched-pairs": "README.md"}


def test_codec_example_runs():
    *_, example = blocks(ROOT / "README.md", "python")
    names: dict = {}
    exec(f"import omnisky\n{example}", names)
    again = names["codec"].decode(names["tokens"])
    assert len(again) == len(names["tokens"])


def test_codec_recipe_is_read(tmp_path):
    from omnisky.train.codec import CodecRecipe
    from omnisky.train.recipe import read_recipe

    (recipe,) = blocks(TRAIN_A_CODEC, "toml")
    (tmp_path / "spectra.toml").write_text(recipe)
    plan = read_recipe(tmp_path / "spectra.toml", CodecRecipe)
    assert plan.learned is not None
    assert plan.learned.build().modalities == ("desi_spectrum", "sdss_spectrum")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", [p for p in PAGES if p != TRAIN_A_CODEC], ids=lambda p: p.stem)
def test_shell_examples_run(page, desk):
    if page.stem in BEFORE:
        run_commands(ROOT / BEFORE[page.stem], "ingest")
    run_commands(page)
