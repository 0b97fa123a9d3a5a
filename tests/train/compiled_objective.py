"""The masked objective with compiled blocks, as a program that trains it on two processes.

Blocks go through torch's tracer alone: its compilers would take minutes here. What comes out of
them is what tests/model/test_compiled.py is about.
"""

import functools
import json
import os
import sys
import warnings
from pathlib import Path

import torch
from masked_objective import run

from omnisky.model import transformer
from omnisky.train.parallel import join_processes

WAYS = {
    "plain": {},
    "compiled": {"compile": True},
    "divided": {"compile": True, "sharding": "fsdp2", "activation_checkpointing": True},
}

if __name__ == "__main__":
    # AdamW makes steps of the last bits of gradients that are 0 but for rounding, which kernels of
    # our own round otherwise; they have tests of their own.
    os.environ["OMNISKY_NATIVE"] = "0"
    warnings.simplefilter("ignore")  # torch's compiler itself warns
    torch.compile = functools.partial(torch.compile, backend="eager")
    folder = Path(sys.argv[1])
    with join_processes("cpu") as processes:
        # One row for all objects rounds otherwise than tables, which are what is compiled.
        transformer.packs = lambda _: False
        for name, how in WAYS.items():
            module = run(folder / name, steps=2, **how).module
            if processes.is_main:
                told = {"names": sorted(module.state_dict())}
                told["compiled"] = [block.compiled for block in module.blocks()]
                (folder / f"{name}.json").write_text(json.dumps(told))
