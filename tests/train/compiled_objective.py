"""The masked objective with compiled blocks, as a program that trains it on two processes.

Blocks go through torch's tracer alone: its compilers would take minutes here. What comes out of
them is what tests/model/test_compiled.py is about.
"""

import functools
import json
import sys
import warnings
from pathlib import Path

import torch
from masked_objective import run

from omnisky.train.parallel import join_processes

WAYS = {
    "plain": {},
    "compiled": {"compile": True},
    "divided": {"compile": True, "sharding": "fsdp2", "activation_checkpointing": True},
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # torch's compiler itself warns
    torch.compile = functools.partial(torch.compile, backend="eager")
    folder = Path(sys.argv[1])
    with join_processes("cpu") as processes:
        for name, how in WAYS.items():
            module = run(folder / name, steps=2, **how).module
            if processes.is_main:
                told = {"names": sorted(module.state_dict())}
                told["compiled"] = [block.compiled for block in module.blocks()]
                (folder / f"{name}.json").write_text(json.dumps(told))
