"""The command line: which commands there are, and how errors reach people."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

__all__ = ["COMMANDS", "main", "show_warning"]

# Name: function, line in the overview (equal to the first line of its docstring; tested).
COMMANDS = {
    "quickstart": (
        "omnisky.cli.quickstart.command:quickstart",
        "Show the whole chain on real stars and mock galaxies.",
    ),
    "mock": (
        "omnisky.cli.mock.command:mock",
        "Make an invented sky: survey files, sky stores or a gallery.",
    ),
    "ingest": ("omnisky.cli.sky.ingest:ingest", "Read survey files into a sky store."),
    "match": ("omnisky.cli.sky.match:match", "Match the objects of sky stores by position."),
    "cutout": ("omnisky.cli.sky.cutout:cutout", "Cut out images at the positions of a table."),
    "pack": (
        "omnisky.cli.sky.pack:pack",
        "Write a sky store again, packed or coded in another way.",
    ),
    "verify": (
        "omnisky.cli.sky.pack:verify",
        "Check every byte of a sky store against its checksums.",
    ),
    "tokenize": ("omnisky.cli.embed:tokenize", "Write the tokens of every object of a table."),
    "embed": (
        "omnisky.cli.embed:embed",
        "Write embeddings of a table's or a sky store's objects.",
    ),
    "fit": ("omnisky.cli.fit:fit", "Adapt a pretrained model to known values of a table."),
    "predict": ("omnisky.cli.fit:predict", "Predict values and intervals with an adapted model."),
    "generate": ("omnisky.cli.generate:generate", "Sample one measurement given others."),
    "pretrain": ("omnisky.cli.pretrain:pretrain", "Pretrain a model from a recipe."),
    "evaluate": (
        "omnisky.cli.pretrain:evaluate",
        "Measure what each modality tells a model of each other.",
    ),
    "train-codec": ("omnisky.cli.pretrain:train_codec", "Train a codec from a recipe."),
    "codec": (
        "omnisky.cli.codec.command:codec",
        "Report how well a codec reconstructs, with pictures.",
    ),
    "info": ("omnisky.cli.info:info", "Say what is in a store, model, survey, table or the like."),
    "cite": ("omnisky.cli.cite:cite", "Print acknowledgements and BibTeX of what was used."),
}
_EPILOGUE = (
    "TABLE is a Parquet, FITS, VOTable, ECSV or CSV file, or a data set: gaia-apogee-mini, "
    "gaia-apogee, or one of its parts, as in gaia-apogee-mini:test. Any command takes --debug "
    "(or OMNISKY_DEBUG=1), which shows where an error arose."
)
# A remedy that only Python has, see omnisky.train.
_NO_RESUME = re.compile(
    r"(Train in another folder, )?or (?:pass|train with) resume=False, which sets [\w ]+ anew"
)
_USER_ERRORS = (CycloptsError, ValueError, KeyError, OSError, ImportError, FloatingPointError)


def _version() -> str:
    from omnisky import __version__

    return __version__


def _app() -> App:
    app = App(
        name="omnisky",
        help="Multimodal foundation models for survey astronomy.",
        help_epilogue=_EPILOGUE,
        help_format="markdown",
        default_parameter=Parameter(negative=()),
        version=_version,
        suppress_keyboard_interrupt=False,
    )
    for order, (name, (function, summary)) in enumerate(COMMANDS.items()):
        app.command(function, name=name, help=summary, sort_key=order)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command and options; without it those of the process.

    Returns
    -------
    int
        0 if all went well, 2 if something the user gave is wrong (one line on stderr), 130 if
        stopped from the keyboard. Any other exception is a defect of omnisky and is raised.
    """
    given = [str(a) for a in (sys.argv[1:] if arguments is None else arguments)]
    words = [a for a in given if a != "--debug"]
    debug = len(words) < len(given) or os.environ.get("OMNISKY_DEBUG", "0") not in ("", "0")
    try:
        _run(words)
    except KeyboardInterrupt:
        print("omnisky: stopped", file=sys.stderr)
        return 130
    except _USER_ERRORS as error:
        if debug:
            raise
        print(f"omnisky: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _run(words: list[str]) -> None:
    app = _app()
    if words and not words[0].startswith("-"):
        _check_command(words[0])
        # The overview shows the summary only, the page of a command its whole docstring.
        app[words[0]].help = None
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        # What we say about the user's data is for the user, even where warnings are errors.
        warnings.filterwarnings("default", category=UserWarning, module=r"omnisky\.")
        app(words, exit_on_error=False, print_error=False, result_action="return_value")


def _check_command(name: str) -> None:
    # cyclopts would import every command to word this message.
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise ValueError(f"no command {name!r}; {hint}")


def _one_line(error: BaseException) -> str:
    """Return what went wrong in one line of plain words."""
    helps = "pip install" in str(error)
    if isinstance(error, ImportError) and isinstance(error.__cause__, ImportError) and not helps:
        error = error.__cause__  # what is missing, not which of our modules wanted it
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename is not None:
            text = f"{error.filename}: {text.lower()}"
        # Our own errors of a full disk say themselves what to do.
        if error.errno == errno.ENOSPC and error.strerror == os.strerror(errno.ENOSPC):
            text += "; nothing was replaced, free some space and run again"
    text = _NO_RESUME.sub(lambda m: f"{'Give' if m[1] else 'or give'} another --out", text)
    return " ".join(text.split()) or type(error).__name__


def show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print a warning about the user's data in one line, without the place in our code."""
    kind = "" if issubclass(category, UserWarning) else f" ({category.__name__})"
    print(f"omnisky: warning{kind}: {' '.join(str(message).split())}", file=sys.stderr)
