"""What DESI measures, how to credit it, and the selections of its objects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from omnisky.modalities import Modality
from omnisky.surveys.survey import Selection, Survey

__all__ = ["DESI", "EBV", "FLUXES", "SELECTIONS", "SPECTRUM", "SPECTYPE", "TYPES", "ZWARN", "Z"]

_OVERVIEW = "2022AJ....164..207D"
_EDR = "2024AJ....168...58D"
_PIPELINE = "2023AJ....165..144G"
_TARGETS = "2023AJ....165...50M"
_LEGACY = "2019AJ....157..168D"

# Codes of desi_spectype, in order.
TYPES = ("GALAXY", "QSO", "STAR")
_UCDS = {
    "g": "em.opt.B",
    "r": "em.opt.R",
    "z": "em.opt.I",
    "w1": "em.IR.3-4um",
    "w2": "em.IR.4-8um",
}


def _flux(band: str, ucd: str) -> Modality:
    return Modality(
        name=f"desi_flux_{band}",
        kind="scalar",
        survey="desi",
        unit="nmgy",
        ucd=f"phot.flux;{ucd}",
        # With its table: a column flux_g of a user is not taken for DESI's copy of it.
        column=f"FIBERMAP.FLUX_{band.upper()}",
        description=f"Legacy Surveys {band} flux used for DESI targeting, not dereddened",
        bibcodes=(_OVERVIEW, _TARGETS, _LEGACY),
    )


def _label(name: str, ucd: str, description: str, valid_range=(-np.inf, np.inf)) -> Modality:
    return Modality(
        name=f"desi_{name}",
        kind="scalar",
        survey="desi",
        unit="",
        ucd=ucd,
        column=f"REDSHIFTS.{name.upper()}",
        description=description,
        valid_range=valid_range,
        role="label",
        bibcodes=(_OVERVIEW, _EDR),
    )


SPECTRUM = Modality(
    name="desi_spectrum",
    kind="spectrum",
    survey="desi",
    unit="1e-17 erg s-1 cm-2 Angstrom-1",
    ucd="phot.flux.density;em.wl",
    column="B_FLUX/R_FLUX/Z_FLUX",
    description="DESI coadded spectrum, arms merged by inverse variance, vacuum, barycentric",
    wavelength_nm=(360.0, 0.08, 7781),
    bibcodes=(_OVERVIEW, _EDR, _PIPELINE),
)
Z = _label("z", "src.redshift", "DESI redshift by redrock", (-0.02, 10.0))
SPECTYPE = _label("spectype", "src.class", "DESI spectral type: 0 GALAXY, 1 QSO, 2 STAR", (0, 2))
ZWARN = _label("zwarn", "meta.code.error", "DESI redshift warning flags, 0 is good")
FLUXES = {band: _flux(band, ucd) for band, ucd in _UCDS.items()}
EBV = Modality(
    name="desi_ebv",
    kind="scalar",
    survey="desi",
    unit="mag",
    ucd="phys.absorption.gal",
    column="FIBERMAP.EBV",
    description="Galactic reddening E(B-V) at the DESI target",
    valid_range=(0.0, 100.0),
    bibcodes=(_OVERVIEW, _TARGETS),
)

DESI = Survey(
    name="desi",
    title="Dark Energy Spectroscopic Instrument",
    modalities=(SPECTRUM, Z, SPECTYPE, ZWARN, *FLUXES.values(), EBV),
    licence="CC BY 4.0",
    acknowledgement=(
        "This research used data obtained with the Dark Energy Spectroscopic Instrument (DESI). "
        "DESI construction and operations is managed by the Lawrence Berkeley National Laboratory. "
        "This material is based upon work supported by the U.S. Department of Energy, Office of "
        "Science, Office of High-Energy Physics, under Contract No. DE-AC02-05CH11231, and by the "
        "National Energy Research Scientific Computing Center."
    ),
    bibtex={
        _OVERVIEW: """@article{desi2022, author={{DESI Collaboration}},
  title={Overview of the Instrumentation for the Dark Energy Spectroscopic Instrument},
  journal={AJ}, year={2022}, volume={164}, pages={207}, doi={10.3847/1538-3881/ac882b}}""",
        _EDR: """@article{desi2024, author={{DESI Collaboration}},
  title={The Early Data Release of the Dark Energy Spectroscopic Instrument},
  journal={AJ}, year={2024}, volume={168}, pages={58}, doi={10.3847/1538-3881/ad3217}}""",
        _PIPELINE: """@article{guy2023, author={Guy, J. and others},
  title={The Spectroscopic Data Processing Pipeline for the Dark Energy Spectroscopic Instrument},
  journal={AJ}, year={2023}, volume={165}, pages={144}, doi={10.3847/1538-3881/acb212}}""",
        _TARGETS: """@article{myers2023, author={Myers, A. D. and others},
  title={The Target-selection Pipeline for the Dark Energy Spectroscopic Instrument},
  journal={AJ}, year={2023}, volume={165}, pages={50}, doi={10.3847/1538-3881/aca5f9}}""",
        _LEGACY: """@article{dey2019desi, author={Dey, A. and others},
  title={Overview of the DESI Legacy Imaging Surveys},
  journal={AJ}, year={2019}, volume={157}, pages={168}, doi={10.3847/1538-3881/ab089d}}""",
    },
)


def _targets(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    kept = np.ones(len(columns["targetid"]), dtype=bool)
    if "objtype" in columns:
        kept &= columns["objtype"] == "TGT"
    if "coadd_fiberstatus" in columns:
        kept &= columns["coadd_fiberstatus"] == 0
    return kept


def _good_redshift(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return _targets(columns) & (columns["zwarn"] == 0)


SELECTIONS = {
    "targets": Selection(
        "targets",
        "Targets, not sky, on fibres without a fault (OBJTYPE = TGT and COADD_FIBERSTATUS = 0, "
        "where the file has these columns)",
        _targets,
    ),
    "good_redshift": Selection(
        "good_redshift", "Targets whose redshift carries no warning (ZWARN = 0)", _good_redshift
    ),
}
