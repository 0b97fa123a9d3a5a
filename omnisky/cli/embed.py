"""From a table to tokens or embeddings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from cyclopts import Parameter

from omnisky.cli.models import readable
from omnisky.cli.sky.workers import Workers
from omnisky.cli.tables import (
    Input,
    Reading,
    check_output,
    expand,
    names_in,
    result_table,
    save,
    slices,
)
from omnisky.data.sky import is_match, is_store
from omnisky.pretrained import pinned

if TYPE_CHECKING:
    from omnisky.model import Model

__all__ = ["embed", "tokenize"]

_READ, _WORKERS = Reading(), Workers()


@Parameter(name="*", group="The model")
@dataclass(frozen=True, kw_only=True)
class Using:
    """Say which model embeds, and how.

    Parameters
    ----------
    base : str
        Pretrained model: a name, a folder, or a hub id as organisation/name@revision.
    pooling : str
        How the outputs of an object's tokens become one vector.
    inputs : str, optional
        Measurements to use, separated by commas (photometry and xp are families); all by default.
    precision : str
        Number format of the transformer; bf16 is faster where the processor computes in it, and
        rounds.
    device : str, optional
        Where to compute: cpu, cuda or cuda:1; by default on a CUDA device where there is one.
    """

    base: str = "nano"
    pooling: Literal["mean"] = "mean"
    inputs: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str | None = None

    def model(self, base: str) -> Model:
        """Load a model that computes so."""
        from omnisky.catalog.computing import place
        from omnisky.model import Model

        return place(Model.from_pretrained(base), self.precision, self.device)


_USING = Using()


def tokenize(
    table: str,
    /,
    *,
    out: Path,
    base: str = "nano",
    inputs: str | None = None,
    reading: Reading = _READ,
    overwrite: bool = False,
) -> None:
    """Write the tokens of every object of a table.

    A modality becomes an integer column ``<modality>_tokens`` (a vector where it has several), and
    ``<modality>_tokens_mask``, which is True where the token exists. The commands embed, fit and
    predict read such a table.

    Parameters
    ----------
    table : str
        Table file or data set.
    out : Path
        File to write; its ending says the format.
    base : str
        Pretrained model: a name, a folder, or a hub id as organisation/name@revision.
    inputs : str, optional
        Modalities to use, separated by commas (photometry and xp are families); all by default.
    reading : Reading
        How to read the table.
    overwrite : bool
        Replace an existing file.
    """
    from omnisky.model import Model

    check_output(out, overwrite)
    source = Input.read(table, reading, names_in(inputs))
    base = pinned(base)
    observations = readable(source.observations, base, asked=inputs is not None)
    model = Model.from_pretrained(base)
    tokens = [model.tokenize(observations[s]) for s in slices(len(observations), "Tokens")]
    result = result_table(source)
    for name in tokens[0]:
        ids = np.concatenate([np.asarray(t[name]) for t in tokens]).astype(np.int32)
        mask = np.concatenate([np.asarray(t.mask[name]) for t in tokens])
        single = ids.shape[1] == 1
        # Not the bare name: a table with gaia_g must hold magnitudes.
        column = f"{name}_tokens"
        result[column] = ids[:, 0] if single else ids
        result[column].description = f"Token ids of {name}, model {base}"
        result[f"{column}_mask"] = mask[:, 0] if single else mask
        result[f"{column}_mask"].description = f"True where the token of {name} exists"
    save(result, out, overwrite)


def embed(
    table: str,
    /,
    *,
    out: Path,
    using: Using = _USING,
    reading: Reading = _READ,
    workers: Workers = _WORKERS,
    overwrite: bool = False,
) -> None:
    """Write embeddings of a table's or a sky store's objects.

    Objects without a single good measurement have NaN and ``embedding_valid`` False. The
    embeddings of a sky store are a sky store themselves, in which such an object has none; a run
    that was stopped goes on where it was when the same command is given again. Under torchrun, the
    processes divide the partitions of a sky store among them. Of a match of stores, the objects of
    the first are embedded, each from what all stores have of it.

    Parameters
    ----------
    table : str
        Table file (of measurements, or of tokens that the model made), data set, or folder of a sky
        store or of a match of stores.
    out : Path
        File to write; its ending says the format. CSV cannot hold vectors. For a sky store, a
        folder that is not there yet.
    using : Using
        The model.
    reading : Reading
        How to read a table.
    workers : Workers
        Where a sky store is embedded.
    overwrite : bool
        Replace an existing file.
    """
    if is_store(table) or is_match(table):
        if overwrite or reading != _READ:
            what = "sky store" if is_store(table) else "match of sky stores"
            raise ValueError(
                f"{table} is a {what}: --overwrite and the options of reading a table are not "
                "for it. Remove an older --out yourself"
            )
        _embed_store(Path(table), out, using, workers)
        return
    if workers != _WORKERS:
        raise ValueError(
            f"{table} is no sky store: --workers and --scheduler are not for it. Make a store of a "
            "large table with omnisky ingest table"
        )
    _embed_table(table, out, using, reading, overwrite)


def _embed_store(store: Path, out: Path, using: Using, workers: Workers) -> None:
    from omnisky.catalog import embed_store
    from omnisky.catalog.given import open_given
    from omnisky.cli.sky.progress import once_each, resumable, watching
    from omnisky.cli.sky.writing import refuse_existing
    from omnisky.data.store import open_store
    from omnisky.train.parallel import in_main_process

    if not in_main_process():
        embed_store(store, out, device=using.device)  # its share of what the main process says
        return
    refuse_existing(out)
    names = names_in(using.inputs)
    asked = None if names is None else expand(names, list(open_given(store).modalities))
    with resumable(out), workers.client() as client, once_each(), watching(out):
        embed_store(
            workers.seen(store),
            workers.seen(out),
            model=using.base,
            modalities=asked,
            precision=using.precision,
            device=using.device,
            client=client,
        )
    found = open_store(out)
    print(f"{out}: embeddings of {len(found)} objects in {len(found.partitions)} partitions")


def _embed_table(table: str, out: Path, using: Using, reading: Reading, overwrite: bool) -> None:
    from omnisky.train.parallel import launched_processes

    if launched_processes() > 1:
        raise ValueError(
            f"{table} is no sky store, and torchrun divides the partitions of one; start one "
            "process, or make a store with omnisky ingest table"
        )
    check_output(out, overwrite)
    if out.suffix.lower() == ".csv":
        raise ValueError(
            f"--out {out}: CSV cannot hold vectors; use .parquet, .fits, .vot or .ecsv"
        )
    source = Input.read(table, reading, names_in(using.inputs), base=using.base)
    base = pinned(using.base)
    observations = readable(source.observations, base, asked=using.inputs is not None)
    model = using.model(base)
    chunks = slices(len(observations), "Embeddings")
    parts = [model.embed(observations[s], pooling=using.pooling) for s in chunks]
    valid = np.concatenate([part.valid for part in parts])
    vectors = np.concatenate([part.vectors for part in parts])
    if not valid.all():
        warnings.warn(
            f"{(~valid).sum()} objects have no measurement and no embedding", stacklevel=1
        )
    result = result_table(source)
    result["embedding"] = np.where(valid[:, None], vectors, np.nan).astype(np.float32)
    used = ", ".join(observations)
    how = f"{using.pooling} pooling, {using.precision}"
    result["embedding"].description = f"Embedding by {base}, {how}, from {used}"
    result["embedding"].meta["ucd"] = "stat.value"
    result["embedding_valid"] = valid
    result["embedding_valid"].description = "False where the object has no measurement at all"
    save(result, out, overwrite)
