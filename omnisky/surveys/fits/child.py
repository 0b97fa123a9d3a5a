"""Decode tile-compressed FITS images in a process of its own, within limits.

Run as a script, by the reading door alone: it takes one JSON job on standard input and answers one
JSON line an image on standard output. It imports nothing of omnisky, so that it starts quickly.
"""

from __future__ import annotations

import json
import sys
import warnings


def _limit(memory_bytes: int, seconds: int) -> None:
    """Bound what this process may use, where the system can."""
    try:
        import resource
    except ImportError:  # no such limits on this system; the time-out of the parent stays
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _decode(path: str, extension: int, target: str) -> dict:
    """Decode one image into a file of raw native numbers; return its type and shape."""
    import numpy as np
    from astropy.io import fits

    with fits.open(path, memmap=True) as hdus:
        data = np.asarray(hdus[extension].data)
        data = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))
    data.tofile(target)
    return {"dtype": data.dtype.name, "shape": data.shape}


def main() -> None:
    """Do the job that is written on standard input."""
    job = json.loads(sys.stdin.read())
    _limit(job["memory_bytes"], job["seconds"])
    warnings.simplefilter("ignore")  # nobody reads them here; what is wrong is an error
    for path, extension, target in job["images"]:
        try:
            answer = _decode(path, extension, target)
        except Exception as error:  # whatever a decoder makes of damaged bytes, say it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
