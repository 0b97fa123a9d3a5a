"""Embed a whole survey: from a sky store to a sky store of embeddings.

A partition of the store is a task; tasks run in this process, on Dask or on the processes of
torchrun, read their objects a batch at a time and leave vectors on the disk, so that a run that was
killed goes on where it was. The result is a store like any other: HATS, with checksums, opened by
`omnisky.open`, pyarrow and LSDB, and matched by position.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.catalog.computing import Precision, digest_of, model_at
from omnisky.catalog.crew import joined
from omnisky.catalog.given import open_given
from omnisky.data.store import Source, ingest
from omnisky.data.store.job import Sharing
from omnisky.modalities import Coefficients, Modality, Observations, SkyObjects
from omnisky.pretrained import pinned, pretrained_folder
from omnisky.storage import sha256_of
from omnisky.surveys.survey import Problems

if TYPE_CHECKING:
    from dask.distributed import Client

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
    precision: Precision = "fp32",
    device: str | None = None,
    client: Client | None = None,
    **options: Any,
) -> Path:
    """Write the mean embedding of every object of a store; killed, it goes on when called again.

    Of a match, the objects of its first store that are in it get one embedding each, from what all
    its stores have of them. Objects without a single good measurement are kept, with an absent
    embedding. Called by all processes of ``torchrun``, each does some of the partitions and the
    first one writes the catalogue; the result is the same, to the byte where they have as many
    threads. Called by one of them alone, it waits for the others.

    Parameters
    ----------
    store : path
        A sky store, or a match of stores (`omnisky.data.match.Match.save`, ``omnisky match``) in
        which an object of the first store has one partner at most in each other.
    path : path
        The store of embeddings, a folder that is not there yet. What is unfinished is kept beside
        it.
    model : str or path
        Pretrained model: a name that ships, a folder or a hub id, which may say its revision:
        ``organisation/name@revision``.
    revision : str, optional
        Commit, tag or branch of a hub id. The new store keeps the commit it stood for.
    modalities : sequence of str, optional
        Which measurements to use; by default all that both the store and the model know, and a
        warning names the others. A model that knows the arms of Gaia XP coefficients alone reads
        them as these.
    precision : {"fp32", "bf16"}
        Number format of the transformer, see `omnisky.model.Model.cast`.
    device : str, optional
        Where to compute: ``cpu``, ``cuda``, or ``cuda:1`` in a single process; without it, on a
        CUDA device where there is one. Under torchrun, ``cuda`` is each process's own.
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
        unfinished run of another store, model, precision or options is there; if a match gives an
        object several partners, or two of its stores have one modality; if there is no such device;
        if a revision is given for what is not on the hub; or if a client is given to processes of
        torchrun.
    OSError
        If it cannot be written, or another process of torchrun failed; what is done is kept.
    """
    with joined(device) as crew:
        if crew is not None and client is not None:
            raise ValueError(
                "tasks run on the processes of torchrun or on a Dask client; found both. Start one "
                "process, or leave the client out"
            )
        if crew is not None and not crew.leads:
            crew.serve()
            return Path(path).absolute()
        name = pinned(model, revision)
        # Workers may run in folders of their own.
        folder = pretrained_folder(name).absolute()
        using = _Using(name, folder, digest_of(folder), precision, device)
        return _embed_all(Path(store).absolute(), path, using, modalities, crew or client, options)


@dataclass(frozen=True)
class _Using:
    """Say which model embeds, and how: what it is called, where it lies, what is in it."""

    name: str
    folder: Path
    digest: str
    precision: Precision
    device: str | None

    def model(self) -> Model:
        return model_at(self.folder, self.digest, self.precision, self.device)

    def about(self) -> dict[str, Any]:
        """Return what embeddings depend on, but for devices: codecs round otherwise on others."""
        return {
            "model": self.name,
            "model_sha256": sha256_of(self.folder / "model.safetensors"),
            "model_folder_sha256": self.digest,
            "pooling": "mean",
            "precision": self.precision,
        }


def _embed_all(
    store: Path,
    path: str | os.PathLike,
    using: _Using,
    modalities: Sequence[str] | None,
    client: Client | Sharing | None,
    options: dict[str, Any],
) -> Path:
    """Write the embeddings; tasks run where the client says."""
    given = open_given(store)
    # The device of Dask's workers may be none of this process.
    here = replace(using, device="cpu", precision="fp32") if _is_dask(client) else using
    model = here.model()
    used, unread = given.choose(model.tokenizer.codecs, modalities)
    if unread and modalities is None:
        warnings.warn(
            f"the model {using.name} does not read {', '.join(unread)} of {store}: not used",
            stacklevel=3,
        )
    read = partial(_embed_partition, store, given.fingerprint, using, used)
    sources = [
        Source(name=f"Norder={p.order}/Npix={p.pixel}", read=partial(read, number))
        for number, p in enumerate(given.first.partitions)
    ]
    provenance = {
        **given.about(),
        **using.about(),
        "modalities": list(used),
        "not_read_by_model": list(unread),
    }
    declared = {EMBEDDING: _declaration(given.first.survey, using.name, used, model.config.dim)}
    how = {"profile": "interchange", **options}
    how["declarations"] = declared | dict(how.get("declarations", {}))
    return ingest(sources, path, provenance=provenance, client=client, **how)


def _is_dask(client: Client | Sharing | None) -> bool:
    return client is not None and not isinstance(client, Sharing)


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
    fingerprint: str,
    using: _Using,
    used: tuple[str, ...],
    number: int,
    *,
    problems: Problems,
) -> Iterator[SkyObjects]:
    """Yield the embedded objects of a partition.

    Damage to it, or to what a partner store has of its objects, is a problem of the whole file.
    """
    given, model = open_given(store, fingerprint), using.model()
    with problems.whole_file(given.first.partitions[number].path):
        for objects, measured in given.batches(number, used, _BATCH):
            yield _embedded(objects, model) if measured else _without(objects, model.config.dim)


def _embedded(objects: SkyObjects, model: Model) -> SkyObjects:
    found = model.embed(objects.observations)
    good = np.broadcast_to(found.valid[:, None], found.vectors.shape)
    return _with(objects, np.where(good, found.vectors, 0), good)


def _without(objects: SkyObjects, dim: int) -> SkyObjects:
    shape = (len(objects.object_id), dim)
    return _with(objects, np.zeros(shape, np.float32), np.zeros(shape, bool))


def _with(objects: SkyObjects, vectors: np.ndarray, good: np.ndarray) -> SkyObjects:
    found = Coefficients(vectors, None, good)  # pyright: ignore
    return replace(objects, observations=Observations({EMBEDDING: found}))
