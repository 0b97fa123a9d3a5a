"""2MASS: near-infrared photometry of the whole sky."""

from __future__ import annotations

from omnisky.modalities import Modality
from omnisky.surveys.survey import Survey

__all__ = ["TWOMASS"]

_SKRUTSKIE = "2006AJ....131.1163S"


def _magnitude(band: str) -> Modality:
    return Modality(
        name=f"twomass_{band}",
        kind="scalar",
        survey="twomass",
        unit="mag",
        ucd=f"phot.mag;em.IR.{band.upper()}",
        column=band,
        description=f"2MASS {band.upper()} magnitude of the point-source catalogue, Vega system",
        valid_range=(-5.0, 20.0),
        bibcodes=(_SKRUTSKIE,),
    )


TWOMASS = Survey(
    name="twomass",
    title="Two Micron All Sky Survey, point-source catalogue",
    modalities=(_magnitude("j"), _magnitude("h"), _magnitude("k")),
    licence="free to use with the acknowledgement",
    acknowledgement=(
        "This publication makes use of data products from the Two Micron All Sky Survey, which is "
        "a joint project of the University of Massachusetts and the Infrared Processing and "
        "Analysis Center/California Institute of Technology, funded by the National Aeronautics "
        "and Space Administration and the National Science Foundation."
    ),
    bibtex={
        _SKRUTSKIE: """@article{skrutskie2006, author={Skrutskie, M. F. and others},
  title={The Two Micron All Sky Survey (2MASS)},
  journal={AJ}, year={2006}, volume={131}, pages={1163}, doi={10.1086/498708}}""",
    },
)
