"""Codecs as AION-1 released them: their folders, their names, and what that release does wrong.

Formats only: the networks are those of the rooms beside this one, which also train ours.
"""

from omnisky.codecs.aion.folders import COMPAT, load_aion

__all__ = ["COMPAT", "load_aion"]
