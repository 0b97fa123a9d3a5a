"""Ingest an invented survey and be killed at a chosen moment; run as a script by the tests."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np

from omnisky.data.store import Source, ingest
from omnisky.modalities import Image, Observations, Scalar, SkyObjects

COUNT = 30
OPTIONS = {"max_rows": 25, "run_bytes": 20_000, "codec": "q16"}


def read(number: int, die_at: int = -1, *, problems):
    """Yield three batches of objects, and die before the batch asked for."""
    for batch in range(3):
        if batch == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(10 * number + batch)
        flux = rng.normal(size=(COUNT, 2, 6, 6)).astype(np.float32)
        yield SkyObjects(
            survey="toy",
            object_id=np.arange(COUNT) + 1000 * number + 100 * batch,
            ra_deg=rng.uniform(0, 360, COUNT),
            dec_deg=rng.uniform(-90, 90, COUNT),
            observations=Observations(
                {
                    "toy_image": Image(flux, np.ones_like(flux), None, ("g", "r"), 0.2),
                    "toy_z": Scalar(rng.uniform(size=COUNT)),
                }
            ),
        )


def sources(die_in: int = -1) -> list[Source]:
    """Return three sources, one of which may kill."""
    return [
        Source(name=f"s{n}", read=partial(read, n, die_at=1 if n == die_in else -1))
        for n in range(3)
    ]


def killing(function, when: str, at: int):
    """Return a function that dies before or after its call of some number."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == at and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def main(path: str, what: str, when: str, at: int) -> None:
    """Ingest, and die when `what` is called for the `at`-th time."""
    from omnisky.data.store import hats, job

    if what == "record":
        job.write_json = killing(job.write_json, when, at)
    elif what == "place":
        os.replace = killing(os.replace, when, at)
    elif what == "finish":
        hats.write_sums = killing(hats.write_sums, when, at)
    elif what == "end":
        job.Job.finish = killing(job.Job.finish, when, at)
    elif what == "remove":
        job.shutil.rmtree = killing(job.shutil.rmtree, when, at)
    ingest(sources(at if what == "source" else -1), Path(path), **OPTIONS)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
