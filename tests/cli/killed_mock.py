"""Write a mock sky and be killed after some pieces; run as a script by the tests."""

import os
import signal
import sys

from omnisky.cli import main
from omnisky.data.store import job


def main_killed(after: int, arguments: list[str]) -> None:
    """Run the command, and die when its record of some number is written."""
    write, calls = job.write_json, 0

    def write_json(path, values):
        nonlocal calls
        calls += 1
        write(path, values)
        if calls == after:
            os.kill(os.getpid(), signal.SIGKILL)

    job.write_json = write_json
    main(arguments)


if __name__ == "__main__":
    main_killed(int(sys.argv[1]), sys.argv[2:])
