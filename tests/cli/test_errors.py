"""What a user gets wrong is one line on stderr and exit code 2, never a traceback."""

import errno
import os
import subprocess
import sys

import pytest

CSV = "source_id,phot_g_mean_mag,j,teff,mymag\n1,12.0,10.0,5000,12.5\n2,13.0,11.0,,13.6\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "c.csv").write_text("id,j,type\n1,12.5,giant\n2,13.5,dwarf\n")
    (tmp_path / "empty.csv").write_text("source_id,j\n")
    (tmp_path / "unknown.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.csv").write_text("j\nabc\n")
    (tmp_path / "missing.csv").write_text("id,j\n1,\n2,\n")
    (tmp_path / "bad.fits").write_text("this is no FITS")
    (tmp_path / "bad.parquet").write_text("no Parquet")
    (tmp_path / "there.fits").write_text("precious")
    (tmp_path / "r.toml").write_text("x = ")
    (tmp_path / "kind.toml").write_text(
        'dataset = "gaia-apogee-mini"\n[spectrum]\nmodality = "gaia_g"\nn_pixels = 343\n[train]\n'
        "steps = 1\nbatch_size = 8\nlearning_rate = 1e-3\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"kind": "model", "modalities": []}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "broken" / "model.safetensors").write_text("{")
    return tmp_path


BAD = [
    ("nonsense", "no command 'nonsense'; there are quickstart"),
    ("embbed t.csv", "no command 'embbed'; did you mean embed?"),
    ("embed", "requires an argument"),
    ("embed t.csv --out e.fits --nope", "Unknown option: --nope"),
    ("embed t.csv --out e.fits --pooling max", 'Invalid value "max" for --pooling'),
    ("embed nothing --out e.fits", "no file nothing, and no data set of this name"),
    ("embed nothing.fits --out e.fits", "no file nothing.fits"),
    ("embed gaia-apogee-mini:half --out e.fits", "no split 'half'"),
    ("embed gaia-apogee-mini --id j --out e.fits", "--column and --id are for table files"),
    ("embed t.csv --out e.txt", "--out e.txt: the ending must be one of .parquet"),
    ("embed t.csv --out e.csv", "CSV cannot hold vectors"),
    ("embed t.csv --out there.fits", "there.fits exists"),
    ("embed t.csv --out e.fits --base giga", "no pretrained model 'giga'"),
    ("embed t.csv --out e.fits --base model", "model has no config.json; expected a model"),
    ("embed t.csv --out e.fits --base bare", "no codecs in bare, without which"),
    ("embed t.csv --out e.fits --base nano@v1", "revision='v1' is for hub ids"),
    ("embed bad.fits --out e.fits", "bad.fits cannot be read as fits"),
    ("embed bad.parquet --out e.fits", "bad.parquet cannot be read as parquet"),
    ("embed empty.csv --out e.fits", "empty.csv has no rows"),
    ("embed unknown.csv --out e.fits", "no column of any modality among a, b"),
    ("embed text.csv --out e.fits", "column 'j' holds text, expected numbers"),
    ("embed missing.csv --out e.fits", "no object has a single good value in twomass_j"),
    ("embed t.csv --out e.fits --id star", "--id: no column 'star'"),
    ("embed t.csv --out e.fits --column j", "--column j: not of the form NAME=COLUMN"),
    ("embed t.csv --out e.fits --column gaia_q=j", "unknown modality 'gaia_q'"),
    ("embed t.csv --out e.fits --column gaia_bp=jj", "the table has no column 'jj'"),
    ("embed t.csv --out e.fits --inputs gaia_xp", "no column of gaia_xp among source_id"),
    ("embed t.csv --out e.fits --inputs gaia_g,,j", "has an empty name"),
    ("embed t.csv --out e.fits --inputs gaia_x", "unknown modality 'gaia_x'"),
    ("tokenize t.csv --out there.fits", "there.fits exists"),
    ("fit t.csv --targets age --out m", "target 'age': the table has no column 'age'"),
    ("fit t.csv --targets teff,teff --out m", "name each target once"),
    ("fit t.csv --targets gaia_g --out m", "gaia_g cannot be both input and target"),
    ("fit t.csv --targets J --out m", "twomass_j cannot be both input and target; name the"),
    (
        "fit t.csv --column gaia_bp=mymag --targets MyMag --out m",
        "target 'MyMag' is column 'mymag', which is also read as the input gaia_bp; name the",
    ),
    (
        "fit t.csv --column gaia_g_error=teff --targets teff --out m",
        "target 'teff' is column 'teff', which is also read as the input gaia_g; name the",
    ),
    ("fit t.csv --targets teff --out model", "model exists"),
    (
        "fit t.csv --targets teff --out bare --overwrite",
        "bare was not written by omnisky (it holds",
    ),
    ("fit c.csv --targets type --out m", "target 'type' holds text, and regression learns numbers"),
    ("fit c.csv --targets type,j --task classification --out m", "one target; found type, j"),
    ("fit c.csv --targets j --task classification --out m", "'j' holds float64 numbers; classes"),
    ("fit c.csv --targets tipe --task classification --out m", "did you mean 'type'?"),
    ("fit gaia-apogee-mini --targets teff --task classification --out m", "has no classes"),
    ("fit t.csv --targets teff --out m --adaptation deep", 'Invalid value "deep"'),
    ("predict t.csv --model nowhere --out p.csv", "no model nowhere"),
    ("predict t.csv --model model --out p.csv", "config.json"),
    ("predict t.csv --model broken --out p.csv", "JSON"),
    ("predict t.csv --model model --out p.csv --coverage 1.5", 'Invalid value "1.5"'),
    ("generate t.csv --target gaia_q --out g.fits", "unknown modality 'gaia_q'"),
    ("generate t.csv --target gaia_xp --out g.csv", "CSV cannot hold gaia_xp"),
    ("generate t.csv --target gaia_xp --out g.fits --samples 1", 'Invalid value "1"'),
    ("generate t.csv --target gaia_xp --out g.fits --base giga", "no pretrained model 'giga'"),
    ("pretrain nowhere.toml", "no recipe nowhere.toml"),
    ("pretrain r.toml --set steps", "--set steps: expected section.key=value"),
    ("pretrain r.toml --out run", "r.toml is not valid TOML"),
    ("evaluate nowhere", "nowhere has no model and tokens"),
    ("evaluate model --objects 0", 'Invalid value "0"'),
    ("train-codec r.toml --out run", "r.toml is not valid TOML"),
    ("train-codec kind.toml --out run", "'gaia_g' is of kind scalar, but a spectrum-codec is for"),
    ("info nothing", "'nothing' is no file or folder, and no base"),
    ("info model", "model has no config.json"),
    ("info broken", "is not a JSON object"),
    ("info nano@v1", "revision='v1' is for hub ids"),
    ("cite gaia_q", "unknown modality 'gaia_q'"),
    ("cite --model nowhere", "no pretrained model 'nowhere'"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_one_clear_line(run, folder, line, message):
    code, printed, error = run(*line.split())
    assert code == 2
    assert printed == ""
    assert error.startswith("omnisky: ")
    assert error.count("\n") == 1
    assert message in error
    assert (folder / "there.fits").read_text() == "precious"
    assert not (folder / "e.fits").exists()


def test_debug_shows_where(run, folder, monkeypatch):
    with pytest.raises(FileNotFoundError):
        run("--debug", "embed", "nothing.fits", "--out", "e.fits")
    monkeypatch.setenv("OMNISKY_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        run("embed", "nothing.fits", "--out", "e.fits")


def test_no_space_left_is_one_line(run, folder, monkeypatch, tiny_model):
    import omnisky.data.tables

    def full(*_, **__):
        raise OSError(28, "No space left on device", "e.fits")

    monkeypatch.setattr(omnisky.data.tables, "write_table", full)
    code, _, error = run("embed", "t.csv", "--out", "e.fits", "--base", tiny_model)
    assert code == 2
    assert error == (
        "omnisky: e.fits: no space left on device; nothing was replaced, free some space and run "
        "again\n"
    )


OURS = "the log line of step 3 could not be written to Runs/A: Input/output error. Make room"
FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EIO, OURS), OURS),
        (OSError(errno.ENOSPC, OURS), OURS),
        (OSError(errno.ENOSPC, FULL), f"{FULL}; nothing was replaced, free some space and run"),
        (OSError(errno.EACCES, "Permission denied", "Runs/A"), "Runs/A: permission denied\n"),
        (OSError("Runs/A is odd"), "Runs/A is odd\n"),
    ],
)
def test_errors_of_files_are_said_as_they_are(run, folder, monkeypatch, error, line):
    import omnisky.data.tables

    def fail(_):
        raise error

    monkeypatch.setattr(omnisky.data.tables, "read_table", fail)
    code, _, said = run("embed", "t.csv", "--out", "e.fits")
    assert code == 2
    assert said.startswith(f"omnisky: {line}")
    assert OURS not in said or said == f"omnisky: {OURS}\n"


def test_remedies_are_those_of_the_shell(run, folder, monkeypatch):
    import omnisky.train.pretraining
    from omnisky.train import checkpoint, loop

    def told(error):
        def fail(*_):
            raise error

        monkeypatch.setattr(omnisky.train.pretraining, "pretrain", fail)
        code, _, said = run("pretrain", "r.toml", "--out", "run")
        assert code == 2
        return said

    assert told(ValueError(f"found. {loop._REMEDY}")) == "omnisky: found. Give another --out\n"
    damaged = folder / "run" / "checkpoints" / "step-00000001"
    damaged.mkdir(parents=True)
    with (
        pytest.warns(UserWarning, match="no manifest"),
        pytest.raises(ValueError, match="all") as info,
    ):
        checkpoint.latest(folder / "run")
    assert told(info.value).endswith("are damaged; move the folder away, or give another --out\n")


def test_stopped_from_the_keyboard(run, folder, monkeypatch):
    import omnisky.data.tables

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(omnisky.data.tables, "read_table", stop)
    assert run("embed", "t.csv", "--out", "e.fits") == (130, "", "omnisky: stopped\n")


def test_as_a_process(folder):
    command = [sys.executable, "-m", "omnisky", "embed", "nothing.fits", "--out", "e.fits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "omnisky: no file nothing.fits\n"
