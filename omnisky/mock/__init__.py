"""What does a sky look like whose truth is known? Invented, in the surveys' true formats.

:class:`Universe` is a lazy, procedural data set: what object i looks like to a survey is a function
of the configuration and i alone. :mod:`omnisky.mock.native` writes it as the surveys' own files.
Everything made here says that it is mock.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnisky.mock.population import UniverseConfig
    from omnisky.mock.universe import SURVEYS, Universe

__all__ = ["SURVEYS", "Universe", "UniverseConfig"]

_HOME = {
    "SURVEYS": "omnisky.mock.universe",
    "Universe": "omnisky.mock.universe",
    "UniverseConfig": "omnisky.mock.population",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'omnisky.mock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
