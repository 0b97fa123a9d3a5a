"""Programs in processes of their own, forked from one that loaded torch once.

To start Python and load torch takes each process some seconds of a core, and torchrun, a third
process, as many; here they are paid once in each test process. Two tests start torchrun itself.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "numpy",
        "torch",
        "torch.distributed.fsdp",
        "torch.nn.parallel",
        "torch.utils.tensorboard",
        "omnisky.catalog",
        "omnisky.data.store",
        "omnisky.train.codec",
        "omnisky.train.pretraining",
    ]
)

# What a pair has, in seconds, to end; and what one of it has after the other failed.
_PATIENCE, _GRACE = 250.0, 10.0


class Program:
    """A Python file that runs as if started by its name, warnings being errors.

    Parameters
    ----------
    path : Path
        The file.
    options : iterable
        Its command line.
    added : dict of str to str, optional
        What its environment has beside this process's.
    """

    def __init__(self, path, options, added=None):
        self._said = tempfile.NamedTemporaryFile(prefix="program-", suffix=".txt")
        given = (str(path), list(map(str, options)), environment(**added or {}), self._said.name)
        self._process = _CONTEXT.Process(target=_run, args=given)
        with pytest.MonkeyPatch.context() as patched:
            # Also for the process that all are forked from.
            patched.setenv("PYTHONPATH", str(ROOT))
            self._process.start()

    def said(self) -> str:
        """Return what it printed and complained of."""
        return Path(self._said.name).read_text()

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """Wait for its end and return how it ended."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"it ran for over {seconds} s:\n{self.said()[-5000:]}")
        return self._process.exitcode

    def kill_at(self, step: int, log: Path, seconds: float) -> int:
        """Kill it once that step is in its log, within so long; return how it ended."""
        until = time.monotonic() + seconds
        while not (log.exists() and f'"step": {step},' in log.read_text()):
            assert self.poll() is None, self.said()
            assert time.monotonic() < until
            time.sleep(0.005)
        return self.kill()

    def kill(self) -> int:
        """Kill it with SIGKILL and return how it ended."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode


def environment(**added: str) -> dict[str, str]:
    """Return the environment of a process that must find omnisky, installed or not."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | added


def torchrun(*command, seconds: float) -> str:
    """Have torchrun itself start two processes, which must not fail; return what they printed."""
    whole = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    whole += map(str, command)
    done = subprocess.run(whole, capture_output=True, text=True, timeout=seconds, env=environment())
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def run_pair(path, *options) -> list[Program]:
    """Run a program in two processes that find each other as those of torchrun do.

    As there, one that fails ends the other, here some seconds later.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    meeting |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    pair = [Program(path, options, {**meeting, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    until = time.monotonic() + _PATIENCE
    while None in (ends := [program.poll() for program in pair]):
        if any(ends):
            until = min(until, time.monotonic() + _GRACE)
        if time.monotonic() > until:
            for program in pair:
                program.kill()
        time.sleep(0.01)
    return pair


def run_well(path, *options) -> list[str]:
    """Run a program in two processes, neither of which may fail; return what each printed."""
    pair = run_pair(path, *options)
    for program in pair:
        assert program.poll() == 0, program.said()[-5000:]
    return [program.said() for program in pair]


def _run(path: str, options: list[str], environment: dict[str, str], said: str) -> None:
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.update(environment)
    sys.argv = [path, *options]
    sys.path.insert(0, str(Path(path).parent))
    warnings.simplefilter("error")
    runpy.run_path(path, run_name="__main__")
