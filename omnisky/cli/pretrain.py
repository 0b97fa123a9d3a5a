"""Train from a recipe, and measure what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

__all__ = ["evaluate", "pretrain", "train_codec"]

# Entries of the any-to-any matrix that are printed.
_SHOWN = 8
# What codecs with a network encode.
_READS = {
    "image-codec": "image",
    "latent-spectrum-codec": "spectrum",
    "native-spectrum-codec": "spectrum",
    "segmentation-codec": "map",
    "spectrum-codec": "spectrum",
}
Overrides = Annotated[tuple[str, ...], Parameter(name="--set")]


def pretrain(recipe: Path, /, *, overrides: Overrides = (), out: Path | None = None) -> None:
    """Pretrain a model from a recipe.

    A run that was stopped goes on where its last checkpoint is.

    Parameters
    ----------
    recipe : Path
        TOML file.
    overrides : tuple of str
        section.key=value in place of what the recipe says. May be repeated.
    out : Path, optional
        Folder of the run; runs/<recipe> by default.
    """
    from omnisky.train.pretraining import pretrain as run

    _check(recipe, overrides)
    run(recipe, list(overrides), out or Path("runs", recipe.stem))


def evaluate(
    run: Path,
    /,
    *,
    objects: PositiveInt = 256,
    visible: NonNegativeInt | None = None,
    seed: NonNegativeInt = 0,
    device: str | None = None,
    out: Path | None = None,
) -> None:
    """Measure what each modality tells a model of each other.

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
    device : str, optional
        Where to compute: cpu, cuda or cuda:1; by default on a CUDA device where there is one.
    out : Path, optional
        Folder to write to; that of the run by default.
    """
    from omnisky.train.pretraining import evaluate_run

    folder = out or run
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give --out a folder")
    from omnisky.model.blocks import usable_device

    on = usable_device(device)
    matrix = evaluate_run(run, objects=objects, visible=visible, seed=seed, device=on)
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


def train_codec(recipe: Path, /, *, overrides: Overrides = (), out: Path | None = None) -> None:
    """Train a codec from a recipe.

    A run that was stopped goes on where its last checkpoint is.

    Parameters
    ----------
    recipe : Path
        TOML file.
    overrides : tuple of str
        section.key=value in place of what the recipe says. May be repeated.
    out : Path, optional
        Folder of the run; runs/<recipe> by default.
    """
    from omnisky.train.codec import train_codec as run
    from omnisky.train.parallel import in_main_process

    _check(recipe, overrides)
    _check_kinds(recipe, overrides)
    written = run(recipe, list(overrides), out or Path("runs", recipe.stem))
    if not in_main_process():
        return
    for folder in written.values():
        print(f"{folder}: {_said_of(folder)}")
    if written:
        first = next(iter(written.values()))
        print(f"next: omnisky codec report {first}; omnisky info {first}")


def _check_kinds(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Refuse a codec of something else than its modality holds, before anything is read."""
    from omnisky.surveys import modalities
    from omnisky.train.codec import CodecRecipe
    from omnisky.train.recipe import read_recipe

    learned = read_recipe(recipe, CodecRecipe, overrides).learned
    if learned is None or learned.kind not in _READS:
        return
    reads, known = _READS[learned.kind], modalities()
    names = getattr(learned.config, "modalities", None) or (learned.config.modality,)
    for name in names:
        if name in known and known[name].kind != reads:
            raise ValueError(
                f"recipe {recipe}: {name!r} is of kind {known[name].kind}, but a {learned.kind} is "
                f"for modalities of kind {reads}; name one of these (omnisky info lists them), or "
                "another codec"
            )


def _said_of(folder: Path) -> str:
    """Return in a few words what a codec folder holds."""
    from omnisky.codecs import load_codec

    codec = load_codec(folder)
    return (
        f"{codec.kind} of {', '.join(codec.modalities)}, {codec.n_tokens} tokens an object from "
        f"{codec.vocab_size} ids"
    )


def _check(recipe: Path, overrides: tuple[str, ...]) -> None:
    if not recipe.is_file():
        raise FileNotFoundError(f"no recipe {recipe}; recipes are TOML files, see recipes/")
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not key or not equals:
            raise ValueError(f"--set {item}: expected section.key=value, such as train.steps=10")
