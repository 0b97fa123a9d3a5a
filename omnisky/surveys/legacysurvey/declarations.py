"""What the Legacy Surveys measure, and how to credit them."""

from __future__ import annotations

from omnisky.modalities import Modality
from omnisky.surveys.survey import Survey

__all__ = [
    "BANDS",
    "LEGACYSURVEY",
    "MAP_PIXELS",
    "MOST_SOURCES",
    "PIXEL_SCALE_ARCSEC",
    "WISE_BANDS",
]

BANDS = ("g", "r", "i", "z")
WISE_BANDS = ("w1", "w2", "w3", "w4")
PIXEL_SCALE_ARCSEC = 0.262
# Side of the cut-outs whose sources are listed and painted, and most sources listed (AION-1's).
MAP_PIXELS, MOST_SOURCES = 96, 20

_OVERVIEW = "2019AJ....157..168D"
_WISE = "2010AJ....140.1868W"
_DUST = "1998ApJ...500..525S"
_UCD = dict(
    g="em.opt.B",
    r="em.opt.R",
    i="em.opt.I",
    z="em.opt.I",
    w1="em.IR.3-4um",
    w2="em.IR.4-8um",
    w3="em.IR.8-15um",
    w4="em.IR.15-30um",
)


def _scalar(name: str, unit: str, ucd: str, column: str, description: str, **more) -> Modality:
    facts = {"bibcodes": (_OVERVIEW,), **more}
    return Modality(
        name=f"legacysurvey_{name}",
        kind="scalar",
        survey="legacysurvey",
        unit=unit,
        ucd=ucd,
        column=column,
        description=f"Legacy Survey {description}",
        **facts,
    )


def _flux(band: str) -> Modality:
    wise = band in WISE_BANDS
    return _scalar(
        f"flux_{band}",
        "nmgy",
        f"phot.flux;{_UCD[band]}",
        f"FLUX_{band.upper()}",
        f"model flux in {band.upper() if wise else band}, not corrected for extinction; AB zero "
        "point 22.5",
        zero_point=22.5,
        bibcodes=(_OVERVIEW, _WISE) if wise else (_OVERVIEW,),
    )


_IMAGE = Modality(
    name="legacysurvey_image",
    kind="image",
    survey="legacysurvey",
    unit="nmgy",
    ucd="phot.flux;obs.image",
    # The planes of a brick: no column of a table is meant.
    column="image-g/image-r/image-i/image-z",
    description="Legacy Survey co-added image, nanomaggies a pixel",
    bands=BANDS,
    pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
    size=160,
    zero_point=22.5,
    bibcodes=(_OVERVIEW,),
)

_SHAPES = (
    _scalar(
        "shape_r",
        "arcsec",
        "phys.angSize;src",
        "SHAPE_R",
        "half-light radius of the galaxy model; absent for point sources and composite models",
        valid_range=(0.0, 3600.0),
    ),
    _scalar("shape_e1", "", "src.ellipticity", "SHAPE_E1", "ellipticity component 1 of the model"),
    _scalar("shape_e2", "", "src.ellipticity", "SHAPE_E2", "ellipticity component 2 of the model"),
)

_SURROUNDINGS = (
    Modality(
        name="legacysurvey_catalog",
        kind="catalog",
        survey="legacysurvey",
        unit="arcsec",
        ucd="meta.record;src",
        # Several rows make one: the column of a user's table is not meant.
        column="RA/DEC/SHAPE_E1/SHAPE_E2/SHAPE_R",
        description="Legacy Survey sources in a cut-out of 25 arcsec, nearest first: offset, "
        "ellipticity and half-light radius",
        size=MOST_SOURCES,
        bibcodes=(_OVERVIEW,),
    ),
    Modality(
        name="legacysurvey_segmentation",
        kind="map",
        survey="legacysurvey",
        unit="",
        ucd="src.morph.type;obs.image",
        column="TYPE/RA/DEC/SHAPE_E1/SHAPE_E2/SHAPE_R",
        description="Legacy Survey map of half-light ellipses: 0 sky, 0.2 PSF, 0.4 REX, 0.6 EXP, "
        "0.8 DEV, 1 SER",
        valid_range=(0.0, 1.0),
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
        size=MAP_PIXELS,
        bibcodes=(_OVERVIEW,),
    ),
)

LEGACYSURVEY = Survey(
    name="legacysurvey",
    title="DESI Legacy Imaging Surveys, DR6 to DR10",
    modalities=(
        _IMAGE,
        *(_flux(band) for band in (*BANDS, *WISE_BANDS)),
        *_SHAPES,
        _scalar(
            "ebv",
            "mag",
            "phot.color.excess",
            "EBV",
            "Galactic reddening E(B-V) at the position, SFD98",
            bibcodes=(_OVERVIEW, _DUST),
        ),
        _scalar(
            "type",
            "",
            "src.morph.type",
            # Text in the file, a code here: the column of a user's table is not meant.
            "TYPE/MORPHTYPE",
            "model: 1 PSF, 2 REX, 3 EXP, 4 DEV, 5 SER, 6 DUP, 7 COMP, 8 SIMP",
            valid_range=(1.0, 8.0),
        ),
        *(
            _scalar(
                f"psfsize_{band}",
                "arcsec",
                "phys.angSize;instr.det.psf",
                f"PSFSIZE_{band.upper()}",
                f"mean width of the point-spread function in {band}, FWHM",
                valid_range=(0.0, 60.0),
            )
            for band in BANDS
        ),
        *_SURROUNDINGS,
    ),
    licence="free to use with the acknowledgement",
    acknowledgement=(
        "The Legacy Surveys consist of three individual and complementary projects: the Dark "
        "Energy Camera Legacy Survey (DECaLS; Proposal ID #2014B-0404; PIs: David Schlegel and "
        "Arjun Dey), the Beijing-Arizona Sky Survey (BASS; NOAO Prop. ID #2015A-0801; PIs: Zhou Xu "
        "and Xiaohui Fan), and the Mayall z-band Legacy Survey (MzLS; Prop. ID #2016A-0453; PI: "
        "Arjun Dey). The full text is at https://www.legacysurvey.org/acknowledgment."
    ),
    bibtex={
        _OVERVIEW: """@article{dey2019, author={Dey, A. and others},
  title={Overview of the DESI Legacy Imaging Surveys},
  journal={AJ}, year={2019}, volume={157}, pages={168}, doi={10.3847/1538-3881/ab089d}}""",
        _WISE: """@article{wright2010, author={Wright, E. L. and others},
  title={The Wide-field Infrared Survey Explorer (WISE)},
  journal={AJ}, year={2010}, volume={140}, pages={1868}, doi={10.1088/0004-6256/140/6/1868}}""",
        _DUST: """@article{schlegel1998, author={Schlegel, D. J. and others},
  title={Maps of Dust Infrared Emission for Use in Estimation of Reddening},
  journal={ApJ}, year={1998}, volume={500}, pages={525}, doi={10.1086/305772}}""",
    },
)
