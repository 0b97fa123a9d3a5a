"""Which objects of several surveys are the same: match positions, keep an index of rows."""

from __future__ import annotations

from omnisky.data.match.groups import Match, match
from omnisky.data.match.kernel import Pairs, match_coordinates, propagate, separation_arcsec
from omnisky.data.match.large import match_with_lsdb
from omnisky.data.match.partitions import MatchOptions

__all__ = [
    "Match",
    "MatchOptions",
    "Pairs",
    "match",
    "match_coordinates",
    "match_with_lsdb",
    "propagate",
    "separation_arcsec",
]
