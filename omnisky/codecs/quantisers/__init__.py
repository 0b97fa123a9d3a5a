"""What turns numbers and vectors into a finite set of ids."""

from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.codecs.quantisers.grid import GridBins
from omnisky.codecs.quantisers.lfq import LFQ
from omnisky.codecs.quantisers.quantile import QuantileBins

__all__ = ["FSQ", "LFQ", "GridBins", "QuantileBins"]
