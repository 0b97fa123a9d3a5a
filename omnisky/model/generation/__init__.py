"""Any-to-any generation: sample modalities one after the other, each given all that is known.

A scalar needs one decoder step and comes with its whole posterior. A modality of many tokens is
sampled in a few steps; each step sees what was sampled before, which is what makes the tokens of
one sample agree with each other. By default ordinal tokens come first and in their order (the codec
puts the ones that carry most variance first), then codes in random order, and the steps grow, so
that the first and most informative tokens are drawn one by one.
"""

from omnisky.model.generation.calibration import Calibration, calibration_of, mean_crps
from omnisky.model.generation.reading import Reading
from omnisky.model.generation.results import (
    Generation,
    MeasurementSamples,
    ScalarPosterior,
    SpectrumSamples,
)
from omnisky.model.generation.sampling import Sampling, SamplingOptions

__all__ = [
    "Calibration",
    "Generation",
    "MeasurementSamples",
    "Reading",
    "Sampling",
    "SamplingOptions",
    "ScalarPosterior",
    "SpectrumSamples",
    "calibration_of",
    "mean_crps",
]
