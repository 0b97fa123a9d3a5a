"""The command that reports on a codec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

from omnisky.cli.tables import Reading, names_in
from omnisky.modalities import UnknownModalityError

if TYPE_CHECKING:
    from omnisky.cli.codec.objects import Looked, Wanted
    from omnisky.codecs import Codec

__all__ = ["codec"]

_READING = Reading()
_AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=10**7))]
_Seed = Annotated[int, Parameter(validator=validators.Number(gte=0))]


def codec(
    what: Literal["report"],
    source: str,
    /,
    *,
    data: str | None = None,
    mock: _AtLeastOne | None = None,
    modality: str | None = None,
    split: Literal["test", "calibration", "train", "all"] = "test",
    objects: _AtLeastOne = 256,
    seed: _Seed = 1000,
    out: Path | None = None,
    reading: Reading = _READING,
) -> None:
    """Report how well a codec reconstructs, with pictures.

    Writes report.json (reconstruction figures, χ² a pixel, use of the vocabulary, objects a second)
    and a page of pictures a modality.

    Parameters
    ----------
    what : str
        report is all there is.
    source : str
        Folder of a codec or of a model with codecs, a codec that ships with omnisky, or a hub id.
    data : str, optional
        Sky store, data set or table file to look at. By default the real stars that ship with
        omnisky where they have the modality, else a mock universe.
    mock : int, optional
        Look at so many objects of a mock universe.
    modality : str, optional
        Which modalities, separated by commas; all that the codec encodes by default.
    split : str
        Which part of a store or data set; training never used test.
    objects : int
        Most objects to look at, taken evenly from all.
    seed : int
        Seed of the mock universe.
    out : Path, optional
        Folder to write; runs/report-NAME by default.
    reading : Reading
        How to read a table.
    """
    if data is not None and mock is not None:
        raise ValueError("give --data or --mock, not both")
    folder = out or Path("runs", f"report-{Path(source).name}")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another --out or remove it first")
    from omnisky.cli.codec.objects import Wanted

    wanted = Wanted(data=data, mock=mock, split=split, objects=objects, seed=seed, reading=reading)
    _write(source, _looked(source, names_in(modality), wanted), folder)


def _looked(source: str, names: list[str] | None, wanted: Wanted) -> list[tuple[Codec, Looked]]:
    """Return the codec and the objects of each modality; those not named may have no objects."""
    from omnisky.cli.codec.objects import look

    found, lacking = [], []
    for view in _views(source, names):
        try:
            found.append((view, look(view.modality, wanted)))
        except (ValueError, UnknownModalityError) as error:
            if names is not None:
                raise
            lacking.append(error)
    if not found:
        raise lacking[0]
    for error in lacking:
        print(f"left out: {error}")
    return found


def _views(source: str, names: list[str] | None) -> list[Codec]:
    """Return the codec of each modality."""
    from omnisky.codecs import Codec

    if names is None:
        one = Codec.from_pretrained(source)
        return [one.of(name) for name in one.modalities]
    return [Codec.from_pretrained(source, name) for name in names]


def _write(source: str, found: list[tuple[Codec, Looked]], folder: Path) -> None:
    from omnisky.cli.codec.measures import measure
    from omnisky.cli.codec.pictures import draw
    from omnisky.cli.sky.progress import waiting
    from omnisky.storage import whole_folder

    report: dict[str, Any] = {"codec": source, "modalities": {}}
    with whole_folder(folder) as work, waiting("Encoding and decoding"):
        for view, looked in found:
            figures, decoded = measure(view, looked.measurement)
            told = {"data": looked.name, "mock": looked.mock, **figures}
            report["modalities"][view.modality] = told
            title = f"{view.modality}: {looked.name}, {view.kind} of {Path(source).name}"
            draw(work / f"{view.modality}.png", title, looked.measurement, decoded)
        (work / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, told in report["modalities"].items():
        print(f"{name}, {told['objects']} objects of {told['data']}:")
        for key, value in (told["reconstruction"] | told["codec_report"]).items():
            print(f"  {key.replace('_', ' ')}: {value:.4g}")
        for group in told["vocabulary"]:
            used = f"{group['codes_used']:.1%} used by {group['seen']}"
            print(
                f"  {group['tokens']} {group['kind']} tokens of {group['ids']} ids: {used}, "
                f"{group['code_entropy_bits']:.2f} bits each"
            )
        rates = told["objects_per_second"]
        print(f"  {rates['encode']:.0f} objects/s encoded, {rates['decode']:.0f} decoded, as timed")
    pages = ", ".join(f"{name}.png" for name in report["modalities"])
    print(f"{folder}: report.json, {pages}")
