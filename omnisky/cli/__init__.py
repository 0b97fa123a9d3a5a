"""How is omnisky used from a shell? ``omnisky COMMAND``, one function a command.

The functions live beside each other by subject and are imported only when their command runs, and
they import the rooms they need only then: ``omnisky --help`` must not wait for torch or astropy.
"""

from omnisky.cli.app import main

__all__ = ["main"]
