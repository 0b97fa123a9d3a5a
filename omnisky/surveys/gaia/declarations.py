"""What Gaia measures, how to credit it, and the selection of its objects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from omnisky.modalities import Modality
from omnisky.surveys.survey import Selection, Survey

__all__ = [
    "ARMS",
    "COEFFICIENTS",
    "FLUXES",
    "GAIA",
    "MAGNITUDES",
    "PARALLAX",
    "POSITION",
    "SELECTIONS",
]

_MISSION = "2016A&A...595A...1G"
_DR3 = "2023A&A...674A...1G"
_XP = "2023A&A...674A...2D"
_XP_EXTERNAL = "2023A&A...674A...3M"
_PHOTOMETRY = "2021A&A...649A...3R"
_ASTROMETRY = "2021A&A...649A...2L"
_DR2 = "2018A&A...616A...1G"
_DR2_ASTROMETRY = "2018A&A...616A...2L"


def _magnitude(band: str, letters: str) -> Modality:
    return Modality(
        name=f"gaia_{letters}",
        kind="scalar",
        survey="gaia",
        unit="mag",
        ucd=f"phot.mag;em.opt{band}",
        column=f"phot_{letters}_mean_mag",
        description=f"Gaia {letters.upper()} mean magnitude, Vega system",
        valid_range=(1.0, 23.0),
        bibcodes=(_MISSION, _DR3, _PHOTOMETRY),
    )


def _flux(band: str, letters: str) -> Modality:
    return Modality(
        name=f"gaia_flux_{letters}",
        kind="scalar",
        survey="gaia",
        unit="electron s-1",
        ucd=f"phot.flux;em.opt{band}",
        column=f"phot_{letters}_mean_flux",
        error_column=f"phot_{letters}_mean_flux_error",
        description=f"Gaia {letters.upper()} mean flux, of the internal system",
        bibcodes=(_MISSION, _DR3, _PHOTOMETRY),
    )


def _coordinate(name: str, words: str, low: float, high: float) -> Modality:
    return Modality(
        name=f"gaia_{name}",
        kind="scalar",
        survey="gaia",
        unit="deg",
        ucd=f"pos.eq.{name};meta.main",
        # With its table: ra and dec of any user's table are places, not a measurement by Gaia.
        column=f"gaia_source.{name}",
        error_column=f"gaia_source.{name}_error",
        description=f"Gaia {words}, ICRS, at the reference epoch of its release",
        valid_range=(low, high),
        bibcodes=(_MISSION, _DR3, _ASTROMETRY),
    )


def _arm(letters: str) -> Modality:
    return Modality(
        name=f"gaia_xp_{letters}",
        kind="coefficients",
        survey="gaia",
        unit="",
        ucd="stat.fit.param",
        column=f"{letters}_coefficients",
        error_column=f"{letters}_coefficient_errors",
        description=f"Gaia {letters.upper()} mean spectrum in the continuous representation",
        size=55,
        bibcodes=(_MISSION, _DR3, _XP),
    )


_XP_SAMPLED = Modality(
    name="gaia_xp",
    kind="spectrum",
    survey="gaia",
    unit="W m-2 nm-1",
    ucd="phot.flux.density;em.wl",
    column="flux",
    error_column="flux_error",
    description="Gaia XP mean spectrum, sampled from the continuous BP and RP representation",
    wavelength_nm=(336.0, 2.0, 343),
    bibcodes=(_MISSION, _DR3, _XP, _XP_EXTERNAL),
)

COEFFICIENTS = Modality(
    name="gaia_xp_coefficients",
    kind="coefficients",
    survey="gaia",
    # Of the internal system, photo-electrons a second and sample; the archive states no unit.
    unit="",
    ucd="stat.fit.param",
    column="bp_coefficients/rp_coefficients",
    error_column="bp_coefficient_errors/rp_coefficient_errors",
    description="Gaia XP mean spectrum in the continuous representation, 55 BP then 55 RP",
    size=110,
    bibcodes=(_MISSION, _DR3, _XP),
)

PARALLAX = Modality(
    name="gaia_parallax",
    kind="scalar",
    survey="gaia",
    unit="mas",
    ucd="pos.parallax.trig",
    column="parallax",
    error_column="parallax_error",
    # Noise makes negative parallaxes; they are measurements and stay.
    description="Gaia parallax at the reference epoch of its release",
    valid_range=(-100.0, 1000.0),
    # Of either release: the data set gaia-apogee, which nano learned from, has those of DR2.
    bibcodes=(_MISSION, _DR3, _ASTROMETRY, _DR2, _DR2_ASTROMETRY),
)

MAGNITUDES = {
    "g": _magnitude("", "g"),
    "bp": _magnitude(".B", "bp"),
    "rp": _magnitude(".R", "rp"),
}
FLUXES = {"g": _flux("", "g"), "bp": _flux(".B", "bp"), "rp": _flux(".R", "rp")}
POSITION = {
    "ra": _coordinate("ra", "right ascension", 0.0, 360.0),
    "dec": _coordinate("dec", "declination", -90.0, 90.0),
}
# The two halves of the coefficients, as modalities of their own.
ARMS = {"bp": _arm("bp"), "rp": _arm("rp")}

GAIA = Survey(
    name="gaia",
    title="Gaia Data Release 3",
    modalities=(
        _XP_SAMPLED,
        *MAGNITUDES.values(),
        PARALLAX,
        COEFFICIENTS,
        *FLUXES.values(),
        *POSITION.values(),
        *ARMS.values(),
    ),
    licence="ESA/Gaia/DPAC, free to use with the acknowledgement",
    acknowledgement=(
        "This work has made use of data from the European Space Agency (ESA) mission Gaia "
        "(https://www.cosmos.esa.int/gaia), processed by the Gaia Data Processing and Analysis "
        "Consortium (DPAC, https://www.cosmos.esa.int/web/gaia/dpac/consortium). Funding for the "
        "DPAC has been provided by national institutions, in particular the institutions "
        "participating in the Gaia Multilateral Agreement."
    ),
    bibtex={
        _MISSION: """@article{gaia2016, author={{Gaia Collaboration}}, title={The Gaia mission},
  journal={A&A}, year={2016}, volume={595}, pages={A1}, doi={10.1051/0004-6361/201629272}}""",
        _DR3: """@article{gaiadr3, author={{Gaia Collaboration}},
  title={Gaia Data Release 3: Summary of the content and survey properties},
  journal={A&A}, year={2023}, volume={674}, pages={A1}, doi={10.1051/0004-6361/202243940}}""",
        _XP: """@article{deangeli2023, author={De Angeli, F. and others},
  title={Gaia Data Release 3: Processing and validation of BP/RP low-resolution spectral data},
  journal={A&A}, year={2023}, volume={674}, pages={A2}, doi={10.1051/0004-6361/202243680}}""",
        _XP_EXTERNAL: """@article{montegriffo2023, author={Montegriffo, P. and others},
  title={Gaia Data Release 3: External calibration of BP/RP low-resolution spectroscopic data},
  journal={A&A}, year={2023}, volume={674}, pages={A3}, doi={10.1051/0004-6361/202243880}}""",
        _PHOTOMETRY: """@article{riello2021, author={Riello, M. and others},
  title={Gaia Early Data Release 3: Photometric content and validation},
  journal={A&A}, year={2021}, volume={649}, pages={A3}, doi={10.1051/0004-6361/202039587}}""",
        _ASTROMETRY: """@article{lindegren2021, author={Lindegren, L. and others},
  title={Gaia Early Data Release 3: The astrometric solution},
  journal={A&A}, year={2021}, volume={649}, pages={A2}, doi={10.1051/0004-6361/202039709}}""",
        _DR2: """@article{gaiadr2, author={{Gaia Collaboration}},
  title={Gaia Data Release 2: Summary of the contents and survey properties},
  journal={A&A}, year={2018}, volume={616}, pages={A1}, doi={10.1051/0004-6361/201833051}}""",
        _DR2_ASTROMETRY: """@article{lindegren2018, author={Lindegren, L. and others},
  title={Gaia Data Release 2: The astrometric solution},
  journal={A&A}, year={2018}, volume={616}, pages={A2}, doi={10.1051/0004-6361/201832727}}""",
    },
)


def _precise_parallax(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    parallax, error = columns["parallax"], columns["parallax_error"]
    return (error > 0) & (parallax > 10 * error)


SELECTIONS = {
    "parallax_over_error_10": Selection(
        "parallax_over_error_10", "Stars with parallax / parallax_error > 10", _precise_parallax
    ),
}
