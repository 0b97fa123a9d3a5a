"""Draw contact sheets of a mock universe, all or none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omnisky.cli.sky.progress import waiting
from omnisky.storage import whole_folder

if TYPE_CHECKING:
    from omnisky.mock import Universe

__all__ = ["draw"]


def draw(universe: Universe, out: Path) -> None:
    """Draw contact sheets into a folder that is not there yet; after a failure it is not there.

    Parameters
    ----------
    universe : Universe
        What to show.
    out : Path
        The folder.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out or remove it first")
    from omnisky.mock.gallery import draw_gallery

    with whole_folder(out) as work, waiting("Drawing"):
        names = [path.name for path in draw_gallery(universe, work)]
    print(f"{out}: {len(names)} contact sheets of a mock sky: {', '.join(names)}")
