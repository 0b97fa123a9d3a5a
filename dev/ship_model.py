"""Put a pretrained model into the package: tables in eight bits, shipped codecs by reference.

    python dev/ship_model.py runs/nano-sky/model nano-sky --card card.md

The model must load and embed as before, or nothing is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from omnisky.codecs import Tokens
from omnisky.model import Model
from omnisky.storage import sha256_of

_PRETRAINED = Path(__file__).parents[1] / "omnisky" / "pretrained"
_WEIGHTS = "model.safetensors"


def shipped_codecs() -> dict[str, str]:
    """Return the names of shipped codecs by the sha256 of their weights."""
    found = {}
    for path in sorted(_PRETRAINED.glob(f"*/codecs/*/{_WEIGHTS}")):
        found[sha256_of(path)] = f"{path.parts[-4]}/{path.parent.name}"
    for path in sorted(_PRETRAINED.glob(f"codecs/*/{_WEIGHTS}")):
        found[sha256_of(path)] = path.parent.name
    return found


def refer(folder: Path) -> None:
    """Replace codecs that ship already by references."""
    known = shipped_codecs()
    for path in sorted(folder.glob(f"codecs/*/{_WEIGHTS}")):
        digest = sha256_of(path)
        if digest in known:
            shutil.rmtree(path.parent)
            path.parent.mkdir()
            reference = {"omnisky_format": 1, "kind": "shipped-codec"}
            reference |= {"name": known[digest], "sha256": digest}
            (path.parent / "config.json").write_text(json.dumps(reference, indent=1) + "\n")


def some_tokens(model: Model) -> Tokens:
    """Return random tokens of all modalities of a few objects."""
    generator = torch.Generator().manual_seed(0)
    ids = {}
    for modality in model.config.modalities:
        parts = [
            torch.randint(group.vocab_size, (4, group.n_tokens), generator=generator)
            for group in modality.groups
        ]
        ids[modality.name] = torch.cat(parts, 1)
    return Tokens(ids)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("name", help="its name in the package")
    parser.add_argument("--card", type=Path, required=True, help="Markdown file of its card")
    asked = parser.parse_args()
    model = Model.from_pretrained(asked.model)
    wanted = model.embed(some_tokens(model)).vectors
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / asked.name
        model.save_pretrained(work, card=asked.card.read_text(encoding="utf-8"), stored="int8")
        refer(work)
        found = Model.from_pretrained(work).embed(some_tokens(model)).vectors
        off = float(np.abs(found - wanted).max() / wanted.std())
        if off > 0.02:
            raise SystemExit(f"the model as it would ship embeds differently: {off:.3g} of a sigma")
        shutil.copytree(work, _PRETRAINED / asked.name)
    print(f"{_PRETRAINED / asked.name}: embeddings within {off:.2g} of a sigma")


if __name__ == "__main__":
    main()
