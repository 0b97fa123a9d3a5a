"""What is there? A sky store, a match, a model, a survey, a table, or the installation."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Listing

from omnisky import __version__
from omnisky.pretrained import (
    codec_folder,
    config_of,
    hub_id,
    is_released,
    modalities_of,
    pretrained_folder,
    shipped_codecs,
    shipped_models,
)
from omnisky.storage import sha256_of

__all__ = ["info"]

# Surveys whose native files omnisky reads.
_NATIVE = ("legacysurvey", "hsc", "sdss", "desi", "gaia", "lamost")


def info(what: str | None = None, /) -> None:
    """Say what is in a store, model, survey, table or the like.

    Parameters
    ----------
    what : str, optional
        Folder of a sky store or a match, model (name, folder or hub id) or codec (name or folder),
        data set, survey, modality or table file; the installation by default.
    """
    from omnisky.data import datasets
    from omnisky.data.sky import is_match, is_store
    from omnisky.surveys import modalities, surveys

    if what is None:
        _installation()
    elif what in modalities():
        _modality(what)
    elif what.partition(":")[0] in datasets.available():
        _dataset(what)
    elif Path(what).is_file():
        _table(what)
    elif is_store(what) or is_match(what):
        from omnisky.cli.sky import describe

        for listing in (describe.store_of if is_store(what) else describe.match_of)(Path(what)):
            _show(*listing)
    elif what in surveys():
        _survey(what)
    elif _is_codec(codec_folder(what)):
        _codec(codec_folder(what))
    elif Path(what).is_dir() and not Path(what, "config.json").is_file():
        raise FileNotFoundError(
            f"{what} has no config.json, omnisky.json or match.json; expected the folder of a "
            "model, a sky store or a match"
        )
    elif Path(what).is_dir() or what in shipped_models() or hub_id(what) is not None:
        _model(pretrained_folder(what, part="words"))
    else:
        raise ValueError(
            f"{what!r} is no file or folder, and no base ({', '.join(shipped_models())}), data set "
            f"({', '.join(datasets.available())}), survey ({', '.join(surveys())}) or modality "
            "(omnisky info lists them)"
        )


def _show(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    listing = Listing(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        listing.add_row(*(str(cell) for cell in row))
    # In a pipe nothing is wrapped to the width of a terminal that is not there.
    width = None if sys.stdout.isatty() else 200
    console = Console(markup=False, highlight=False, width=width)
    console.print(listing)
    console.print()


def _installation() -> None:
    from omnisky.data import datasets
    from omnisky.surveys import modalities

    print(f"omnisky {__version__}\n")
    for title, folders in (("models", shipped_models()), ("codecs", shipped_codecs())):
        rows = [(n, f"{_bytes(f) / 1e6:.1f} MB", _sha256(f)) for n, f in folders.items()]
        _show(f"Pretrained {title}", ("name", "size", "sha256 of the weights"), rows)
    declared = modalities().values()
    rows = [(m.name, m.kind, m.role, m.unit or "-", m.column) for m in declared]
    _show("Modalities", ("name", "kind", "role", "unit", "survey column"), rows)
    _show("Data sets", ("name",), [(name,) for name in datasets.available()])


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _sha256(folder: Path) -> str:
    weights = folder / "model.safetensors"
    return sha256_of(weights) if weights.is_file() else "missing"


def _survey(name: str) -> None:
    from omnisky.surveys import surveys

    survey = surveys()[name]
    _show(survey.title, ("", ""), [("licence", survey.licence)])
    rows = [(m.name, m.kind, m.role, m.unit or "-", m.column) for m in survey.modalities]
    _show("Modalities", ("name", "kind", "role", "unit", "survey column"), rows)
    if name in _NATIVE:
        from omnisky.cli.sky.sources import selections_of

        known, default = selections_of(name)
        rows = [(n, s.description + " (default)" * (n == default)) for n, s in known.items()]
        rows.append(("none", "Everything" + " (default)" * (default == "all")))
        _show("Selections of omnisky ingest", ("name", "what it takes"), rows)


def _modality(name: str) -> None:
    from omnisky.surveys import modality, surveys

    declared = modality(name)
    survey = surveys()[declared.survey]
    low, high = declared.valid_range
    rows = [
        ("what", declared.description),
        ("kind", f"{declared.kind}, {declared.role}"),
        ("unit", declared.unit or "dimensionless"),
        ("UCD", declared.ucd),
        ("survey", f"{survey.title} ({survey.licence})"),
        ("survey column", declared.column),
        ("error column", declared.error_column or "none"),
        ("valid range", f"{low:g} to {high:g}"),
        ("cite", ", ".join(declared.bibcodes)),
    ]
    if declared.wavelength_nm is not None:
        grid = declared.wavelength
        rows.append(("wavelengths", f"{grid[0]:g} to {grid[-1]:g} nm, {len(grid)} pixels"))
    _show(name, ("", ""), rows)


def _dataset(name: str) -> None:
    from omnisky.cli.tables import Input, Reading

    found = Input.read(name, Reading()).dataset
    print(f"{found!r}\n")
    for title, measured in (("Observations", found.observations), ("Labels", found.labels)):
        rows = [(key, int(m.present.sum())) for key, m in measured.items()]
        _show(title, ("modality", "objects"), rows)


def _table(path: str) -> None:
    from omnisky.data.tables import read_table
    from omnisky.data.usertable import recognise
    from omnisky.surveys import modalities

    table = read_table(path)
    held = [m.name for m in modalities().values() if m.kind in ("scalar", "spectrum")]
    found = recognise(table, names=held)
    known = {column: name for name, column in found.items()}
    rows = [
        (c, table[c].dtype, table[c].shape[1:] or "", table[c].unit or "-", known.get(c, ""))
        for c in table.colnames
    ]
    _show(f"{path}: {len(table)} rows", ("column", "type", "shape", "unit", "modality"), rows)


def _is_codec(folder: Path) -> bool:
    there = (folder / "config.json").is_file()
    return there and str(config_of(folder).get("kind")).endswith("-codec")


def _codec(folder: Path) -> None:
    from omnisky.codecs import load_codec

    codec = load_codec(folder)
    weights = sum(t.numel() for t in codec.parameters())
    rows = [
        ("kind", codec.kind),
        ("modalities", ", ".join(codec.modalities)),
        ("tokens an object", codec.n_tokens),
        *((f"{g.kind} tokens", f"{g.n_tokens} of {g.vocab_size} ids") for g in codec.groups),
        ("trained weights", f"{weights:,}"),
        ("sha256 of the weights", _sha256(folder)),
        *((k, v) for k, v in config_of(folder).items() if k not in ("kind", "modalities")),
    ]
    _show(f"{folder}: {_bytes(folder) / 1e6:.1f} MB", ("", ""), rows)
    _card(folder)


def _model(folder: Path) -> None:
    config = config_of(folder)
    if isinstance(config.get("modalities"), list):
        config["modalities"] = ", ".join(str(m.get("name", m)) for m in config["modalities"])
    if is_released(folder):
        config["modalities"] = ", ".join(modalities_of(folder)) if _has_codecs(folder) else "none"
        config |= {key: ", ".join(config.get(key, ())) for key in ("domains_in", "domains_out")}
    here = (folder / "model.safetensors").is_file()
    size = f"{_bytes(folder) / 1e6:.1f} MB" if here else "weights not here"
    _show(f"{folder}: {size}", ("", ""), config.items())
    _card(folder)


def _has_codecs(folder: Path) -> bool:
    return any(folder.glob("codecs/*/config.json"))


def _card(folder: Path) -> None:
    card = folder / "README.md"
    if card.is_file():
        print(card.read_text(encoding="utf-8"))
