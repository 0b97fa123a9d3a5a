"""Pretrain as one of the processes of torchrun; keep what the model is and says in the end."""

import sys
from pathlib import Path

import torch

from omnisky.train.parallel import in_main_process
from omnisky.train.pretraining import TokenTable, pretrain


def said(network, out):
    """Return the vectors of held-out objects of the first source."""
    (folder,) = (out / "tokens").glob("0-*/calibration")
    with torch.no_grad():
        return network.encode(TokenTable.open(folder).tokens()[:5])[0]


if __name__ == "__main__":
    recipe, out = map(Path, sys.argv[1:])
    network = pretrain(recipe, (), out).network
    if in_main_process():
        kept = {"weights": network.state_dict(), "said": said(network, out)}
        torch.save(kept, out / "kept.pt")
