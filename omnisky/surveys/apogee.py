"""APOGEE DR17: stellar labels from high-resolution H-band spectra, and targeting extinctions."""

from __future__ import annotations

from omnisky.modalities import Modality
from omnisky.surveys.survey import Survey

__all__ = ["APOGEE"]

_MAJEWSKI = "2017AJ....154...94M"
_DR17 = "2022ApJS..259...35A"
_ASPCAP = "2016AJ....151..144G"
_TARGETING = "2013AJ....146...81Z"


def _label(name: str, unit: str, ucd: str, description: str, valid_range) -> Modality:
    return Modality(
        name=f"apogee_{name}",
        kind="scalar",
        survey="apogee",
        unit=unit,
        ucd=ucd,
        column=name,
        error_column=f"{name}_err",
        description=description,
        valid_range=valid_range,
        role="label",
        bibcodes=(_MAJEWSKI, _DR17, _ASPCAP),
    )


_EXTINCTION = Modality(
    name="apogee_ak",
    kind="scalar",
    survey="apogee",
    unit="mag",
    ucd="phys.absorption;em.IR.K",
    column="ak_targ",
    description="K-band extinction used for APOGEE targeting (mostly RJCE, H - 4.5 micron colour)",
    # Failed fits reach -85 mag in the delivered table.
    valid_range=(-0.5, 5.0),
    bibcodes=(_MAJEWSKI, _TARGETING),
)

APOGEE = Survey(
    name="apogee",
    title="APOGEE, SDSS Data Release 17",
    modalities=(
        _label(
            "teff", "K", "phys.temperature.effective", "Effective temperature", (2500.0, 50000.0)
        ),
        _label("logg", "dex", "phys.gravity", "Surface gravity, log10 of g in cm s-2", (-1.5, 6.0)),
        _label("fe_h", "dex", "phys.abund.Fe", "Iron abundance [Fe/H]", (-5.0, 1.0)),
        _label("alpha_m", "dex", "phys.abund", "Alpha-element abundance [alpha/M]", (-1.0, 1.5)),
        _EXTINCTION,
    ),
    licence="SDSS data policy, free to use with the acknowledgement",
    acknowledgement=(
        "Funding for the Sloan Digital Sky Survey IV has been provided by the Alfred P. Sloan "
        "Foundation, the U.S. Department of Energy Office of Science, and the Participating "
        "Institutions. SDSS-IV acknowledges support and resources from the Center for High "
        "Performance Computing at the University of Utah. The SDSS website is www.sdss4.org."
    ),
    bibtex={
        _MAJEWSKI: """@article{majewski2017, author={Majewski, S. R. and others},
  title={The Apache Point Observatory Galactic Evolution Experiment (APOGEE)},
  journal={AJ}, year={2017}, volume={154}, pages={94}, doi={10.3847/1538-3881/aa784d}}""",
        _DR17: """@article{sdssdr17, author={Abdurro'uf and others},
  title={The Seventeenth Data Release of the Sloan Digital Sky Surveys},
  journal={ApJS}, year={2022}, volume={259}, pages={35}, doi={10.3847/1538-4365/ac4414}}""",
        _ASPCAP: """@article{garciaperez2016, author={Garc{\\'i}a P{\\'e}rez, A. E. and others},
  title={ASPCAP: The APOGEE Stellar Parameter and Chemical Abundances Pipeline},
  journal={AJ}, year={2016}, volume={151}, pages={144}, doi={10.3847/0004-6256/151/6/144}}""",
        _TARGETING: """@article{zasowski2013, author={Zasowski, G. and others},
  title={Target Selection for the Apache Point Observatory Galactic Evolution Experiment},
  journal={AJ}, year={2013}, volume={146}, pages={81}, doi={10.1088/0004-6256/146/4/81}}""",
    },
)
