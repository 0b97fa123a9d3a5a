"""Help is quick, complete and loads nothing heavy."""

import importlib
import subprocess
import sys

import pytest

from omnisky.cli.app import COMMANDS

HEAVY = ("torch", "astropy", "sklearn", "scipy", "pyarrow", "matplotlib", "numpy")
# Names and options are an interface: a new one is added here on purpose.
_STORE = "--profile --codec --margin-arcsec"
_WHERE = "--workers --scheduler"
OPTIONS = {
    "quickstart": None,
    "mock": f"--objects --seed --area-deg2 --out --store --surveys {_STORE} {_WHERE}",
    "ingest": "--out --catalog --cutouts --selection --on-error --dataset --images --size --bands "
    "--missing-bands --without-image --trusted --redshifts --coefficients --labels --ra --dec "
    f"--keep --column --id --resample --surroundings {_STORE} {_WHERE}",
    "match": "--out --radius-arcsec --how --all-pairs --neighbors --epoch --names --overwrite "
    f"{_WHERE}",
    "cutout": "--positions --out --size --survey --bands --missing-bands --radius-arcsec --trusted "
    f"--ra --dec --id --on-error --overwrite {_STORE} {_WHERE}",
    "pack": f"--out --on-error {_STORE} {_WHERE}",
    "verify": _WHERE,
    "tokenize": "--out --base --inputs --overwrite --column --id --resample",
    "embed": "--out --base --pooling --inputs --precision --device --overwrite --column --id "
    f"--resample {_WHERE}",
    "fit": "--targets --out --inputs --task --adaptation --base --seed --device --overwrite "
    "--column --id --resample",
    "predict": "--model --out --coverage --base --device --overwrite --column --id --resample",
    "generate": "--target --out --given --samples --seed --calibrate-on --draws --base --device "
    "--overwrite --column --id --resample --method --steps --temperature --top-k --top-p "
    "--guidance --context",
    "pretrain": "--set --out",
    "evaluate": "--objects --visible --seed --device --out",
    "train-codec": "--set --out",
    "codec": "--data --mock --modality --split --objects --seed --out --column --id --resample",
    "info": "",
    "cite": "--model",
}


def load(command: str):
    module, _, name = COMMANDS[command][0].partition(":")
    if command == "quickstart":
        pytest.importorskip(module, reason="quickstart is not there")
    return getattr(importlib.import_module(module), name)


def test_all_commands_are_there():
    assert list(COMMANDS) == list(OPTIONS)


@pytest.mark.parametrize("command", COMMANDS)
def test_summary_is_the_first_line_of_the_docstring(command):
    assert load(command).__doc__.splitlines()[0] == COMMANDS[command][1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(run, command):
    load(command)
    code, printed, error = run(command, "--help")
    assert (code, error) == (0, "")
    assert COMMANDS[command][1] in printed
    if OPTIONS[command] is not None:
        shown = {word.strip("│*") for word in printed.split() if word.startswith("--")}
        assert shown - {"--debug"} == set(OPTIONS[command].split())


def test_overview_and_version(run):
    import omnisky

    code, printed, _ = run("--help")
    assert code == 0
    assert all(name in printed and summary in printed for name, (_, summary) in COMMANDS.items())
    code, printed, _ = run("--version")
    assert (code, printed.strip()) == (0, omnisky.__version__)


def loaded_after(*lines: list[str]) -> set[str]:
    """Return the modules that commands load, one after the other in one process."""
    code = (
        "import sys\nfrom omnisky.cli import main\n"
        f"for line in {lines!r}: main(line)\nprint('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_start_is_light(argument):
    assert loaded_after([argument]).isdisjoint(HEAVY)


def test_help_of_commands_is_light():
    # Some need numpy to say what they take; it is quick.
    assert loaded_after(*([name, "--help"] for name in COMMANDS)).isdisjoint({*HEAVY} - {"numpy"})
