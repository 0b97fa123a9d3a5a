"""Every declared modality says what it is, in which unit, and what to cite."""

import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from astropy import units as u
from astropy.io.votable.ucd import check_ucd

from omnisky import surveys
from omnisky.modalities import UnknownModalityError
from omnisky.surveys import APOGEE, GAIA, TWOMASS, Survey, modality

ALL = list(surveys.modalities().values())
NAMES = {
    "gaia_xp", "gaia_g", "gaia_bp", "gaia_rp", "gaia_parallax",
    "twomass_j", "twomass_h", "twomass_k",
    "apogee_ak", "apogee_teff", "apogee_logg", "apogee_fe_h", "apogee_alpha_m",
}  # fmt: skip


def test_what_is_declared():
    assert set(surveys.modalities()) >= NAMES
    labels = {m.name for m in ALL if m.role == "label"}
    assert labels >= {
        *("apogee_teff", "apogee_logg", "apogee_fe_h", "apogee_alpha_m"),
        *("sdss_z", "sdss_class", "sdss_zwarning", "desi_z", "desi_spectype", "desi_zwarn"),
        *("lamost_z", "lamost_teff", "lamost_logg", "lamost_fe_h", "lamost_rv"),
    }
    assert modality("gaia_xp").wavelength.shape == (343,)
    assert modality("desi_spectrum").wavelength.shape == (7781,)
    assert modality("gaia_xp_coefficients").size == 110


def test_no_column_of_a_user_means_two_observations():
    """A table is read by these names; labels are read only where asked for."""
    columns = [m.column.lower() for m in ALL if m.role == "observation"]
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize("declared", ALL, ids=lambda m: m.name)
def test_declaration(declared):
    survey = surveys.surveys()[declared.survey]
    assert declared.name.startswith(f"{survey.name}_")
    assert re.fullmatch(r"[a-z][a-z0-9_]*", declared.name)
    assert u.Unit(declared.unit) is not None
    assert check_ucd(declared.ucd, check_controlled_vocabulary=True, has_colon=False)
    assert declared.column
    assert declared.description
    assert declared.bibcodes
    for bibcode in declared.bibcodes:
        # Year, journal, volume, section, page and initial of the first author: 19 characters.
        assert re.fullmatch(r"\d{4}[A-Za-z&.]{5}[.\d]{4}[.A-Z][.\d]{4}[A-Z]", bibcode)
    with pytest.raises(FrozenInstanceError):
        declared.unit = "m"


@pytest.mark.parametrize("survey", surveys.surveys().values(), ids=lambda s: s.name)
def test_survey_can_be_cited(survey):
    assert survey.title
    assert survey.licence
    assert survey.acknowledgement.endswith(".")
    cited = {b for m in survey.modalities for b in m.bibcodes}
    assert cited == set(survey.bibtex), "an entry that nothing cites, or the reverse"
    for bibcode, entry in survey.bibtex.items():
        assert entry.startswith("@")
        assert entry.count("{") == entry.count("}")
        assert f"year={{{bibcode[:4]}}}" in entry
        assert re.search(r"doi=\{10\.\d{4,5}/\S+\}", entry)


def test_parallaxes_credit_the_release_they_may_be_of():
    """Those of the data set gaia-apogee, which nano learned from, are of DR2."""
    dr2 = {"2018A&A...616A...1G", "2018A&A...616A...2L"}
    assert dr2 < set(modality("gaia_parallax").bibcodes)
    assert "The astrometric solution" in GAIA.bibtex["2018A&A...616A...2L"]


def test_bibtex_keys_are_unique():
    keys = [
        re.match(r"@\w+\{(\w+),", entry)[1]
        for survey in surveys.surveys().values()
        for entry in survey.bibtex.values()
    ]
    assert len(set(keys)) == len(keys)


def test_unknown_modality_lists_those_there_are():
    with pytest.raises(UnknownModalityError, match=r"unknown modality 'gaia_u'.*gaia_xp"):
        modality("gaia_u")


def test_survey_refuses_foreign_or_uncited_modalities():
    facts = {"title": "t", "licence": "l", "acknowledgement": "a.", "bibtex": {}}
    with pytest.raises(ValueError, match="without a BibTeX entry"):
        Survey(name="gaia", modalities=(modality("gaia_g"),), **facts)
    with pytest.raises(ValueError, match="says survey 'gaia'"):
        Survey(name="other", modalities=(modality("gaia_g"),), **facts | {"bibtex": GAIA.bibtex})


def test_a_plug_in_joins_through_its_entry_point(monkeypatch):
    band = replace(
        modality("twomass_j"), name="vhs_j", survey="vhs", bibcodes=(), description="VHS J"
    )
    vhs = Survey(
        name="vhs", title="VHS", modalities=(band,), licence="l", acknowledgement="a.", bibtex={}
    )

    class Entry:
        def load(self):
            return vhs

    monkeypatch.setattr(surveys, "entry_points", lambda group: [Entry()])
    surveys.surveys.cache_clear()
    surveys.modalities.cache_clear()
    try:
        assert modality("vhs_j") is band
        assert {"gaia", "desi", "vhs"} <= set(surveys.surveys())
    finally:
        surveys.surveys.cache_clear()
        surveys.modalities.cache_clear()


def test_two_modalities_of_one_name_are_refused(monkeypatch):
    both = {"gaia": GAIA, "again": GAIA, "apogee": APOGEE, "twomass": TWOMASS}
    monkeypatch.setattr(surveys, "surveys", lambda: both)
    surveys.modalities.cache_clear()
    try:
        with pytest.raises(ValueError, match="declared twice"):
            surveys.modalities()
    finally:
        surveys.modalities.cache_clear()


def test_valid_ranges_hold_the_stars(mini):
    for group in (mini.observations, mini.labels):
        for name, measured in group.items():
            if modality(name).kind == "scalar":
                low, high = modality(name).valid_range
                value = measured.value[measured.mask]
                assert np.all((value >= low) & (value <= high))
