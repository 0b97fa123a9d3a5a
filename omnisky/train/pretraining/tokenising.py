"""Tokenise every source once, into tables on disk, so that training touches only integers.

Chunks that are done are kept until the table is whole, so that a stopped run goes on; several
processes share the chunks.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from omnisky.codecs.codec import Codec, warn_outside
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.modalities import Measurement, UnknownModalityError
from omnisky.train.parallel import in_main_process
from omnisky.train.pretraining.recipe import PretrainingData, PretrainingSource
from omnisky.train.pretraining.sources import SkySource, open_sky_source
from omnisky.train.pretraining.tokentable import Block, TokenTable, packed, write_table

__all__ = ["Part", "tokenise_sources"]

_SPLITS = {"train": "training", "calibration": "held_out"}
_TELL_EVERY_SECONDS = 30.0
# So long a process waits for others before it says so.
_PATIENT_SECONDS = 60.0
# Arrays of a chunk.
_HELD = ("ids", "mask", "objects", "outside")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Hold the tokens of one source.

    Parameters
    ----------
    source : PretrainingSource
        Where they come from.
    training : TokenTable or None
        Those of the train split; None for a source that is only evaluated on.
    held_out : TokenTable
        Those of the calibration split.
    """

    source: PretrainingSource
    training: TokenTable | None
    held_out: TokenTable


def tokenise_sources(data: PretrainingData, tokenizer: Tokenizer, run: Path) -> list[Part]:
    """Return the tokens of all sources; those that are not in the run's folder are made.

    Parameters
    ----------
    data : PretrainingData
        The sources.
    tokenizer : Tokenizer
        Codecs of the modalities that the model shall have, in the order of its slots.
    run : Path
        Folder of the run; tables are ``<run>/tokens/<source>/<split>``.

    Raises
    ------
    UnknownModalityError
        If a source is asked for a modality that it does not have, or that has no codec.
    ValueError
        If a source has no objects or no modality of the model, a modality has no source, or tokens
        in the folder were made of other data or by other codecs.
    """
    prints = {name: _fingerprint(codec) for name, codec in tokenizer.codecs.items()}
    parts = [
        _saved(source, Path(data.path), prints)
        if source.tokens
        else _Tokenising(number, source, data, tokenizer, prints).part(run)
        for number, source in enumerate(data.sources)
    ]
    trained = [part.training for part in parts if part.training is not None]
    lacking = [n for n in tokenizer.codecs if not any(n in table.modalities for table in trained)]
    if lacking:
        raise ValueError(
            f"no source with a positive weight has {', '.join(lacking)}; leave them out of "
            "modalities, or add a section [[data.sources]] that has them"
        )
    return parts


def _saved(source: PretrainingSource, path: Path, prints: Mapping[str, str]) -> Part:
    """Open tokens of an earlier run, after checking that they are what the codecs here make."""
    tables = {}
    for split, kind in _SPLITS.items():
        if kind == "training" and not source.weight:
            continue
        table = TokenTable.open(path / source.tokens / split)
        _choose(source, tuple(table.modalities), prints)
        if source.modalities or source.needs or source.objects:
            raise ValueError(
                f"the {source} are taken as they are; leave out modalities, needs and objects, or "
                "make them anew from their data"
            )
        made = table.about.get("identity", {}).get("codecs", {})
        if other := [n for n in table.modalities if made.get(n) != prints.get(n)]:
            raise ValueError(
                f"the {source} of {', '.join(other)} were made by other codecs than those of this "
                "recipe; name the codecs they were made by, or make them anew"
            )
        tables[kind] = table
    return _checked(source, tables)


def _choose(
    source: PretrainingSource, there: tuple[str, ...], prints: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the modalities to take of a source, in the order of the codecs."""
    asked = (*source.modalities, *source.needs)
    if unknown := [name for name in asked if name not in there]:
        raise UnknownModalityError(
            f"the {source} has no {', '.join(unknown)}; it has {', '.join(there)}"
        )
    if uncoded := [name for name in asked if name not in prints]:
        raise UnknownModalityError(
            f"the {source} shall give {', '.join(uncoded)}, which is none of the model's "
            f"modalities {', '.join(prints)}; add it to modalities, with a codec in codecs"
        )
    chosen = tuple(n for n in prints if n in (source.modalities or there))
    if not chosen:
        raise ValueError(
            f"the {source} has none of the model's modalities {', '.join(prints)}; it has "
            f"{', '.join(there)}"
        )
    return chosen


def _checked(source: PretrainingSource, tables: Mapping[str, TokenTable]) -> Part:
    training = tables.get("training")
    if training is not None and not len(training):
        raise ValueError(
            f"the {source} has no objects to train on: none of its train split has a token of "
            f"{', '.join(training.modalities)}"
            + (f" and all of {', '.join(source.needs)}" if source.needs else "")
        )
    return Part(source=source, training=training, held_out=tables["held_out"])


class _Tokenising:
    """Tokenise one source."""

    def __init__(
        self,
        number: int,
        source: PretrainingSource,
        data: PretrainingData,
        tokenizer: Tokenizer,
        prints: Mapping[str, str],
    ) -> None:
        self.source, self.codecs = source, tokenizer.codecs
        self.sky: SkySource = open_sky_source(source, Path(data.path))
        self.names = _choose(source, self.sky.modalities, prints)
        self.sizes = {name: self.codecs[name].n_tokens for name in self.names}
        self.chunk = self.sky.chunk(data.chunk)
        self.folder = f"{number}-{re.sub(r'[^a-z0-9]+', '-', str(source).lower()).strip('-')}"
        self.identity = {
            **self.sky.identity(self.names),
            "needs": list(source.needs),
            "codecs": {name: prints[name] for name in self.names},
        }

    def part(self, run: Path) -> Part:
        """Return the tokens of both splits."""
        folder = run / "tokens" / self.folder
        tables = {
            kind: self._table(folder / split)
            for split, kind in _SPLITS.items()
            if kind == "held_out" or self.source.weight
        }
        return _checked(self.source, tables)

    def _table(self, folder: Path) -> TokenTable:
        rows = self.sky.rows(folder.name)
        if folder.name == "train" and 0 < self.source.objects < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, self.source.objects).astype(np.int64)]
        identity = self.identity | {
            "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        }
        if not folder.exists():
            self._make(folder, rows, identity)
        table = TokenTable.open(folder)
        found = table.about.get("identity", {})
        if changed := [name for name in identity if identity[name] != found.get(name)]:
            raise ValueError(
                f"the tokens in {folder} were made of something else than the {self.source} of "
                f"this recipe: {', '.join(changed)} changed. Choose another --out, or remove "
                f"{folder.parent} to make them anew"
            )
        return table

    def _make(self, folder: Path, rows: np.ndarray, identity: Mapping[str, Any]) -> None:
        """Make the chunks of this process; in the main process, put all together."""
        work = folder.with_name(f".chunks-{folder.name}")
        work.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**identity, "chunk": self.chunk, "holds": _HELD}, sort_keys=True)
        stem = f"chunk-{hashlib.sha256(text.encode()).hexdigest()[:12]}-"
        if strange := [p for p in work.glob("chunk-*.npz") if not p.name.startswith(stem)]:
            raise ValueError(
                f"{work} holds {len(strange)} chunks of tokens that were made of other data, by "
                "other codecs, in chunks of another size or by an older omnisky, of a run that was "
                f"stopped. Choose another --out, or remove {work}"
            )
        count = -(-len(rows) // self.chunk)
        paths = [work / f"{stem}{number:07d}.npz" for number in range(count)]
        told = time.monotonic()
        for number in range(_env("RANK", 0), count, _env("WORLD_SIZE", 1)):
            if not paths[number].exists() and not folder.exists():
                part = rows[number * self.chunk : (number + 1) * self.chunk]
                _write_chunk(paths[number], self._tokens(part))
            if time.monotonic() - told > _TELL_EVERY_SECONDS and in_main_process():
                told = time.monotonic()
                Console(stderr=True).print(
                    f"tokens of the {self.source}, {folder.name}: chunk {number + 1}/{count}",
                    highlight=False,
                )
        if not in_main_process():
            _wait([folder])
            return
        _wait(paths)
        self._warn_outside(paths)
        about = {
            "source": str(self.source),
            "split": folder.name,
            "mock": self.sky.mock,
            "identity": dict(identity),
        }
        named = _held(paths, "objects")
        objects = np.concatenate(named) if named else None
        write_table(folder, self.sizes, lambda: _blocks(paths), about, objects)
        shutil.rmtree(work)

    def _tokens(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return of some objects what `_HELD` says; values outside are counted by modality."""
        try:
            measured = self.sky.read(rows, self.names)
            found, outside = {}, np.zeros((2, len(self.names)), np.int64)
            for i, (name, size) in enumerate(self.sizes.items()):
                ids = np.zeros((len(rows), size), np.int64)
                mask = np.zeros((len(rows), size), bool)
                if name in measured and len(measured[name][0]):
                    places, measurement = measured[name]
                    ids[places], mask[places] = _encoded(self.codecs[name], measurement)
                    outside[:, i] = self.codecs[name].count_outside(measurement), len(places)
                found[name] = ids, mask
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"the {self.source}, objects {rows[0]} … {rows[-1]}: {error}"
            ) from error
        kept = np.ones(len(rows), bool)
        for name in self.source.needs:
            kept &= found[name][1].any(1)
        kept &= np.any([mask.any(1) for _, mask in found.values()], axis=0)
        some = {name: (ids[kept], mask[kept]) for name, (ids, mask) in found.items()}
        vocabulary = max(self.codecs[name].vocab_size for name in self.names)
        return (*packed(some, vocabulary), self.sky.objects(rows)[kept], outside)

    def _warn_outside(self, paths: list[Path]) -> None:
        total = np.zeros((2, len(self.names)), np.int64)
        for outside in _held(paths, "outside"):
            total += outside
        for name, outside, present in zip(self.names, *total.tolist(), strict=True):
            warn_outside(name, outside, present)


@torch.no_grad()
def _encoded(codec: Codec, measurement: Measurement) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask, checked: what a network makes of NaN is no id."""
    ids, mask = codec.encode_masked(measurement)
    codec.check_ids(ids, mask)
    return np.where(mask.numpy(), ids.numpy(), 0), mask.numpy()


def _write_chunk(path: Path, held: tuple[np.ndarray, ...]) -> None:
    """Write a chunk, whole or not at all."""
    writing = path.with_name(f".writing-{path.name}")
    try:
        np.savez(writing, **dict(zip(_HELD, held, strict=True)))
        os.replace(writing, path)
    except OSError as error:
        writing.unlink(missing_ok=True)
        raise OSError(
            f"could not write {path}: {error}. Free some space and start again; what is done is "
            "kept"
        ) from error


def _blocks(paths: list[Path]) -> Iterator[Block]:
    for path in paths:
        with np.load(path) as chunk:
            yield chunk["ids"], chunk["mask"]


def _held(paths: list[Path], name: str) -> list[np.ndarray]:
    """Return an array of each chunk."""
    found = []
    for path in paths:
        with np.load(path) as chunk:
            found.append(chunk[name])
    return found


def _fingerprint(codec: Codec) -> str:
    """Return the sha256 of a codec's configuration and weights."""
    about = [codec.kind, codec.modality, asdict(codec.config)]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _env(name: str, default: int) -> int:
    """Return a number that torchrun tells, before processes have joined."""
    return int(os.environ.get(name, default))


def _wait(paths: Iterable[Path]) -> None:
    """Return when other processes have made files or folders; one a machine says if it is long."""
    # Once: others may be slow, and what they make tells no progress here.
    until = time.monotonic() + _PATIENT_SECONDS if _env("LOCAL_RANK", 0) == 0 else math.inf
    for path in paths:
        while not path.exists():
            if time.monotonic() > until:
                until = math.inf
                Console(stderr=True).print(
                    f"process {_env('RANK', 0)} waits for {path}, which another process makes. If "
                    "the others are done, they do not see this folder: stop all, and give all "
                    "machines one --out that they share",
                    highlight=False,
                    soft_wrap=True,
                )
            time.sleep(0.2)
