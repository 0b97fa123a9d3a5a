"""Embed a whole survey: from a sky store to a sky store of embeddings.

A partition of the store is a task; tasks run in this process, on Dask or on the processes of
torchrun, read their objects a batch at a time and leave vectors on the disk, so that a run that was
killed goes on where it was. The result is a store like any other: HATS, with checksums, opened by
`omnisky.open`, pyarrow and LSDB, and matched by position.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.catalog.crew import joined
from omnisky.data.store import Source, Store, ingest, open_store
from omnisky.modalities import Coefficients, Modality, Observations, SkyObjects
from omnisky.pretrained import pinned, pretrained_folder
from omnisky.storage import sha256_of
from omnisky.surveys.survey import Problems

if TYPE_CHECKING:
    from dask.distributed import Client

    from omnisky.data.store.job import Sharing
    from omnisky.model import Model

__all__ = ["EMBEDDING", "embed_store"]

EMBEDDING = "embedding"
_BATCH = 512


def embed_store(
    store: str | os.PathLike,
    path: str | os.PathLike,
    *,
    model: str | os.PathLike = "nano",
    revision: str | None = None,
    modalities: Sequence[str] | None = None,
    client: Client | None = None,
    **options: Any,
) -> Path:
    """Write the mean embedding of every object of a store; killed, it goes on when called again.

    Objects without a single good measurement are kept, with an absent embedding. Called by all
    processes of ``torchrun``, each does some of the partitions and the first one writes the
    catalogue; the result is the same, to the byte where they have as many threads. Called by one of
    them alone, it waits for the others.

    Parameters
    ----------
    store : path
        A sky store.
    path : path
        The store of embeddings, a folder that is not there yet. What is unfinished is kept beside
        it.
    model : str or path
        Pretrained model: a name that ships, a folder or a hub id, which may say its revision:
        ``organisation/name@revision``. It runs on an accelerator where there is one.
    revision : str, optional
        Commit, tag or branch of a hub id. The new store keeps the commit it stood for.
    modalities : sequence of str, optional
        Which measurements to use; all that both the store and the model know by default.
    client : dask.distributed.Client, optional
        Where tasks run: partitions, on workers that see the same disk.
    **options
        Of the new store, see `omnisky.data.store.StoreSpec`; ``profile="interchange"`` by default,
        vectors as lists.

    Returns
    -------
    Path
        The store of embeddings: one modality, ``embedding``, shape (dim,).

    Raises
    ------
    FileNotFoundError
        If there is no such store or model.
    FileExistsError
        If the path is there already.
    ValueError
        If nothing, or not all that was asked for, is in the store and known to the model, or an
        unfinished run of another store, model or options is there; if a revision is given for what
        is not on the hub; or if a client is given to processes of torchrun.
    OSError
        If it cannot be written, or another process of torchrun failed; what is done is kept.
    """
    with joined() as crew:
        if crew is not None and client is not None:
            raise ValueError(
                "tasks run on the processes of torchrun or on a Dask client; found both. Start one "
                "process, or leave the client out"
            )
        if crew is not None and not crew.leads:
            crew.serve()
            return Path(path).absolute()
        name = pinned(model, revision)
        return _embed_all(store, path, name, modalities, crew or client, options)


def _embed_all(
    store: str | os.PathLike,
    path: str | os.PathLike,
    model: str,
    modalities: Sequence[str] | None,
    client: Client | Sharing | None,
    options: dict[str, Any],
) -> Path:
    """Write the embeddings; tasks run where the client says."""
    # Workers may run in folders of their own.
    store, folder = Path(store).absolute(), pretrained_folder(model).absolute()
    source, digest = open_store(store), _digest(folder)
    loaded = _loaded(folder, digest)
    used = _usable(source, loaded, modalities)
    read = partial(_embed_partition, store, folder, digest, used)
    sources = [
        Source(name=f"Norder={p.order}/Npix={p.pixel}", read=partial(read, number))
        for number, p in enumerate(source.partitions)
    ]
    provenance = {
        "embedded_from": str(store),
        "fingerprint": source.fingerprint,
        "source": source.provenance,
        "model": model,
        "model_sha256": sha256_of(folder / "model.safetensors"),
        "model_folder_sha256": digest,
        "modalities": list(used),
        "pooling": "mean",
    }
    declared = {EMBEDDING: _declaration(source.survey, model, used, loaded.config.dim)}
    how = {"profile": "interchange", **options}
    how["declarations"] = declared | dict(how.get("declarations", {}))
    return ingest(sources, path, provenance=provenance, client=client, **how)


def _usable(store: Store, model: Model, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the modalities to read; those asked for must all be there and known."""
    known = tuple(name for name in store.modalities if name in model.tokenizer.codecs)
    wanted = known if asked is None else tuple(asked)
    strange = [name for name in wanted if name not in known]
    if strange or not wanted:
        raise ValueError(
            f"cannot embed {', '.join(strange) or 'anything'} of {store.path}: it has "
            f"{', '.join(store.modalities)}, and the model reads "
            f"{', '.join(sorted(model.tokenizer.codecs))}"
        )
    return wanted


def _digest(folder: Path) -> str:
    """Return the sha256 over a model's weights, configuration and codecs."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _loaded(folder: Path, digest: str) -> Model:
    """Return a model, loaded once a process, on the accelerator where there is one.

    Raises
    ------
    ValueError
        If the folder holds another model by now.
    """
    import torch

    from omnisky.model import Model

    model = Model.from_pretrained(folder)
    if _digest(folder) != digest:
        raise ValueError(f"{folder} changed while its model was embedding; start again")
    if torch.cuda.is_available():
        model.network.to("cuda")
    return model


def _declaration(survey: str, model: str, used: Sequence[str], dim: int) -> Modality:
    return Modality(
        name=EMBEDDING,
        kind="coefficients",
        survey=survey,
        unit="",
        ucd="stat.value",
        column=EMBEDDING,
        description=f"Mean embedding by {model} from {', '.join(used)}",
        size=dim,
    )


def _embed_partition(
    store: Path,
    folder: Path,
    digest: str,
    used: tuple[str, ...],
    number: int,
    *,
    problems: Problems,
) -> Iterator[SkyObjects]:
    """Yield the embedded objects of a partition; a damaged one is a problem of the whole file."""
    opened, model = open_store(store), _loaded(folder, digest)
    first, last = opened.starts[number], opened.starts[number + 1]
    with problems.whole_file(opened.partitions[number].path):
        for start in range(first, last, _BATCH):
            objects = opened.read(slice(start, min(start + _BATCH, last)), used)
            yield _embedded(objects, model)


def _embedded(objects: SkyObjects, model: Model) -> SkyObjects:
    found = model.embed(objects.observations)
    good = np.broadcast_to(found.valid[:, None], found.vectors.shape)
    vectors = Coefficients(np.where(good, found.vectors, 0), None, good)  # pyright: ignore
    return replace(objects, observations=Observations({EMBEDDING: vectors}))
