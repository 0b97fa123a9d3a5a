"""Embed a store as one of the processes of torchrun; one may fail or be killed on the way."""

import os
import signal
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

from omnisky.catalog import embed_store, embedding
from omnisky.data.store import ingest


class Noon:
    """A clock that stands still, so that stores are the same to the byte."""

    @staticmethod
    def now(zone):
        return datetime(2026, 1, 1, 12, tzinfo=UTC)


def dies(how: str, dying: Path) -> None:
    """Let process 1 fail, or be killed, at its second batch, and process 0 wait for that."""
    whole, done = embedding._embedded, []

    def deadly(given, network):
        if done and os.environ["RANK"] == "0":
            while not dying.exists():
                time.sleep(0.05)
            time.sleep(5 if how == "killed" else 0.5)
        elif done:
            dying.touch()
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the moon is in the way")
        done.append(len(given))
        return whole(given, network)

    embedding._embedded = deadly


if __name__ == "__main__":
    store, out, model, how = sys.argv[1:]
    sys.modules[ingest.__module__].datetime = Noon
    # The small survey has a parallax, which the small model does not read.
    warnings.filterwarnings("ignore", "the model .* does not read gaia_parallax of")
    if how != "well":
        dies(how, Path(out).with_name("dying"))
    embed_store(store, out, model=model)
