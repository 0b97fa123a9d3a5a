"""C code compiled where it runs; optional.

A file of kernels is compiled on first use by the C compiler of the machine, in about a second and
into a temporary folder. Without a compiler, and where the environment variable ``OMNISKY_NATIVE``
is 0, plain torch does the work.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["call", "compiled", "random_tensors"]

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_Kernels = TypeVar("_Kernels")


def compiled(
    source: Path, wrap: Callable[[ctypes.CDLL], _Kernels], agree: Callable[[_Kernels], bool]
) -> _Kernels | None:
    """Compile a file of kernels; return them if that works and they give what torch gives.

    Parameters
    ----------
    source : path
        C source.
    wrap : callable
        Makes the kernels of the loaded library.
    agree : callable
        Tells whether kernels give what torch gives.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if os.environ.get("OMNISKY_NATIVE") == "0" or not compiler:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "kernels.so"
            command = [compiler, *_FLAGS, f"-I{Path(__file__).parent}", str(source), "-o"]
            subprocess.run([*command, str(library)], check=True, capture_output=True, timeout=120)
            kernels = wrap(ctypes.CDLL(str(library)))
        # Asked once for all: the first caller's autocast must not decide.
        with torch.autocast("cpu", enabled=False):
            if agree(kernels):
                return kernels
        reason = "they differ from torch"
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = str(error)
    logging.getLogger(__name__).info("plain torch instead of %s: %s", source.name, reason)
    return None


def call(library: ctypes.CDLL, name: str, *given: torch.Tensor | int | float) -> None:
    """Call a kernel on the memory of tensors, on longs and on doubles."""
    arguments = [
        ctypes.c_void_p(value.data_ptr())
        if isinstance(value, torch.Tensor)
        else ctypes.c_double(value)
        if isinstance(value, float)
        else ctypes.c_long(value)
        for value in given
    ]
    getattr(library, name)(*arguments)


def random_tensors() -> Callable[..., torch.Tensor]:
    """Return a source of normal numbers by shape, the same each time, to try kernels on.

    They are float32 on the CPU, whatever the defaults of the process.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    return partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")
