"""Say how well a pretrained model knows each modality from each other one."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import NonNegativeInt, PositiveInt

__all__ = ["evaluate"]

_SHOWN = 8


def evaluate(
    run: Path,
    /,
    *,
    objects: PositiveInt = 256,
    visible: NonNegativeInt | None = None,
    seed: NonNegativeInt = 0,
    out: Path | None = None,
) -> None:
    """Measure how well a pretrained model knows each modality from each other one.

    Writes any_to_any.json and any_to_any.png: gains over the frequencies of training, on objects
    that were not trained on.

    Parameters
    ----------
    run : Path
        Folder of a run of omnisky pretrain that is over.
    objects : int
        Most held-out objects of a source.
    visible : int, optional
        Most tokens shown of an object, 0 for all; as the run's recipe says by default.
    seed : int
        Seed of the bootstrap.
    out : Path, optional
        Folder to write to; that of the run by default.
    """
    from omnisky.train.pretraining import evaluate_run

    folder = out or run
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give --out a folder")
    matrix = evaluate_run(run, objects=objects, visible=visible, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    matrix.save(folder)
    best = sorted(matrix.entries, key=lambda entry: -entry.gain)
    never = [entry for entry in best if not entry.seen_together]
    for title, entries in (("best known", best), ("never seen together in training", never)):
        if entries:
            print(f"{title} ({matrix.mock} objects), {matrix.unit} below frequencies:")
        for entry in entries[:_SHOWN]:
            print(
                f"  {entry.given} → {entry.target}: {entry.gain:.2f} "
                f"({entry.low:.2f} to {entry.high:.2f}), {entry.objects} objects"
            )
    print(f"{folder / 'any_to_any.json'}, {folder / 'any_to_any.png'}")
