"""``omnisky quickstart``: observations, tokens, embeddings, predictions and generation on stars."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from cyclopts.types import PositiveInt

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["quickstart"]


def quickstart(
    *,
    out: Path = Path("omnisky-quickstart"),
    dataset: str = "gaia-apogee",
    labels: PositiveInt = 5000,
    base: str = "nano",
    galaxies: str = "nano-sky",
) -> None:
    """Show the whole chain on real stars and mock galaxies.

    Loads stars, turns their spectra and photometry into tokens, adapts the pretrained model with a
    few thousand labels, predicts the test stars with calibrated intervals, and samples
    measurements from each other. Then redshifts and spectra of mock galaxies from their images,
    images from spectra, and spectra from images of a survey that training never showed together
    with them. A second run re-uses the fitted model, and the results if no figure is missing.

    Parameters
    ----------
    out : path
        Folder for figures, table and fitted model; what others wrote there is not replaced.
    dataset : str
        Data set to use; gaia-apogee-mini needs no extra package.
    labels : int
        Labelled stars to adapt with.
    base : str
        Pretrained model for the stars.
    galaxies : str
        Pretrained model for the galaxies; empty leaves them out.
    """
    from rich.console import Console

    from omnisky.cli.quickstart.stages import stages
    from omnisky.pretrained import pinned

    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; give --out a folder")
    console = Console()
    began = monotonic()
    base = pinned(base)
    key = {
        "dataset": dataset,
        "labels": labels,
        "weights": _weights(base),
        "galaxies": _weights(galaxies) if galaxies else "",
        "format": 6,
    }
    stored = _stored(out, key)
    if stored is None:
        from omnisky.cli.quickstart.stars import run

        with stages(console, galaxies=bool(galaxies)) as stage:
            stored = run(stage, out, key, base, galaxies)
    else:
        console.print(f"Re-using the results of an earlier run in {out}.")
    _show(console, stored, out, base)
    console.print(f"[dim]{monotonic() - began:.0f} s in all[/dim]")


def _weights(model: str) -> str:
    from omnisky.pretrained import pretrained_folder
    from omnisky.storage import sha256_of

    return sha256_of(pretrained_folder(model) / "model.safetensors")


def _stored(out: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return results of an earlier run with the same stars, labels and weights."""
    from omnisky.adapt.storage import KIND
    from omnisky.storage import read_folder

    try:
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("key") != key:
            return None
        read_folder(out / "model", KIND)  # the next commands need it
        whole = all((out / name).is_file() for name in found["figures"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def _show(console: Console, result: dict[str, Any], out: Path, base: str) -> None:
    from rich.table import Table

    counts = result["stars"]
    labels, blend = counts["train"] + counts["blend"], counts["blend"]
    caption = (
        "robust scatter 1.4826·MAD; in brackets the part of the truth inside the 90 % interval. "
        "One model for all three rows"
    )
    if blend:
        caption += f"; {blend} labels, of stars new to the pretrained model, choose the blend"
    title = f"{counts['test']} test stars, adapted with {labels} labels"
    table = Table(title=title, caption=f"{caption}.")
    table.add_column("inputs")
    for name in ("Teff / K", "log g / dex", "[Fe/H] / dex"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        cells = [
            f"{s:.0f} ({c:.1%})" if s > 5 else f"{s:.3f} ({c:.1%})"
            for s, c in zip(row["scatter"], row["coverage"], strict=True)
        ]
        table.add_row(row["inputs"], *cells)
    console.print(table)
    for given, name in (("legacysurvey_image", "Legacy Survey image"), ("hsc_image", "HSC image")):
        for row in result.get("galaxies", {}).get(f"redshift_given_{given}", ()):
            console.print(
                f"mock galaxy, redshift given its {name}: {row['median']:.3f} "
                f"({row['low']:.3f} … {row['high']:.3f}), true {row['true']:.3f}"
            )
    console.print(f"Figures, table and fitted model are in [bold]{out}[/bold]. Next:")
    for command in _next_commands(out, base):
        console.print(f"  {shlex.join(command)}", soft_wrap=True, markup=False, highlight=False)


def _next_commands(out: Path, base: str) -> list[list[str]]:
    """Return what can be run next, in words as the shell takes them."""
    from omnisky.pretrained import modalities_of, pretrained_folder

    stars, omnisky = "gaia-apogee-mini:test", _program()
    known = modalities_of(pretrained_folder(base, part="words"))
    target = "apogee_fe_h" if "apogee_fe_h" in known else "gaia_xp"
    sample = [*omnisky, "generate", stars, "--given", "photometry", "--target", target]
    if base != "nano":
        sample += ["--base", base]
    return [
        [*omnisky, "info", base],
        [*omnisky, "predict", stars, "--model", str(out / "model"), "--out", "predictions.ecsv"],
        [*sample, "--out", "generated.ecsv"],
        [*omnisky, "cite", "--model", base],
    ]


def _program() -> list[str]:
    """Return how a user starts this very omnisky: by its name only if the shell finds it so."""
    script = Path(sys.argv[0])
    if script.name != "omnisky" or not script.is_file():
        script = Path(sys.executable).with_name("omnisky")
    if not script.is_file():
        return [sys.executable, "-m", "omnisky"]
    found = shutil.which("omnisky")
    if found is not None and os.path.samefile(found, script):
        return ["omnisky"]
    script, here = Path(os.path.abspath(script)), Path.cwd()
    return [str(script.relative_to(here) if script.is_relative_to(here) else script)]
