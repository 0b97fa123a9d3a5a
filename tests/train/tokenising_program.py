"""Tokenise a mock universe as one of the processes of torchrun; print what names the tokens."""

import sys
from pathlib import Path

from omnisky.codecs import Tokenizer
from omnisky.train.codec.recipe import MockRecipe
from omnisky.train.pretraining import PretrainingData, PretrainingSource
from omnisky.train.pretraining.tokenising import tokenise_sources

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    source = PretrainingSource(mock=MockRecipe(objects=80, seed=3))
    tokenizer = Tokenizer.from_pretrained(folder / "codecs")
    (part,) = tokenise_sources(PretrainingData(sources=(source,), chunk=8), tokenizer, folder)
    print(part.training.fingerprint)
