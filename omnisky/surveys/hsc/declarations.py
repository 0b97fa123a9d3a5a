"""What HSC-SSP measures, and how to credit it."""

from __future__ import annotations

from omnisky.modalities import Modality
from omnisky.surveys.survey import Survey

__all__ = ["BANDS", "HSC", "PIXEL_SCALE_ARCSEC", "ZERO_POINT"]

BANDS = ("g", "r", "i", "z", "y")
PIXEL_SCALE_ARCSEC = 0.168
ZERO_POINT = 27.0

_PDR3 = "2022PASJ...74..247A"
_PIPELINE = "2018PASJ...70S...5B"
_UCD = dict(g="em.opt.B", r="em.opt.R", i="em.opt.I", z="em.opt.I", y="em.IR.J")


def _scalar(name: str, unit: str, ucd: str, column: str, description: str, **more) -> Modality:
    return Modality(
        name=f"hsc_{name}",
        kind="scalar",
        survey="hsc",
        unit=unit,
        ucd=ucd,
        column=column,
        description=f"HSC {description}",
        bibcodes=(_PDR3, _PIPELINE),
        **more,
    )


def _of_band(band: str) -> tuple[Modality, ...]:
    return (
        _scalar(
            f"{band}_cmodel_mag",
            "mag",
            f"phot.mag;{_UCD[band]}",
            f"{band}_cmodel_mag",
            f"CModel magnitude in {band}, AB, not corrected for extinction",
            valid_range=(0.0, 40.0),
            error_column=f"{band}_cmodel_magerr",
        ),
        _scalar(
            f"a_{band}",
            "mag",
            f"phys.absorption;{_UCD[band]}",
            f"a_{band}",
            f"Galactic extinction in {band}",
            valid_range=(0.0, 50.0),
        ),
        _scalar(
            f"{band}_extendedness",
            "",
            "src.class.starGalaxy",
            f"{band}_extendedness_value",
            f"0 for a point source, 1 for an extended one, in {band}",
            valid_range=(0.0, 1.0),
        ),
        _scalar(
            f"psfsize_{band}",
            "arcsec",
            "phys.angSize;instr.det.psf",
            # Made of three columns; none of them is it.
            f"{band}_sdssshape_psf_shape11/22/12",
            f"width of the point-spread function in {band}, FWHM, from its second moments",
            valid_range=(0.0, 60.0),
        ),
    )


def _moment(part: str, words: str, **more) -> Modality:
    return _scalar(
        f"shape{part}",
        "arcsec2",
        "phys.angSize;em.opt.I",
        f"i_sdssshape_shape{part}",
        f"second moment of the light in i, {words}, not corrected for the PSF",
        **more,
    )


HSC = Survey(
    name="hsc",
    title="Hyper Suprime-Cam Subaru Strategic Program, Public Data Release 3",
    modalities=(
        Modality(
            name="hsc_image",
            kind="image",
            survey="hsc",
            unit="nmgy",
            ucd="phot.flux;obs.image",
            # The HDUs of a patch: no column of a table is meant.
            column="IMAGE/MASK/VARIANCE",
            description="HSC co-added image, nanomaggies a pixel (zero point 27 in the file)",
            bands=BANDS,
            pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
            size=160,
            zero_point=22.5,
            bibcodes=(_PDR3, _PIPELINE),
        ),
        *(modality for band in BANDS for modality in _of_band(band)),
        _moment("11", "along x", valid_range=(0.0, 1e4)),
        _moment("22", "along y", valid_range=(0.0, 1e4)),
        _moment("12", "mixed", valid_range=(-1e4, 1e4)),
    ),
    licence="free to use after registration, with the acknowledgement",
    acknowledgement=(
        "The Hyper Suprime-Cam (HSC) collaboration includes the astronomical communities of Japan "
        "and Taiwan, and Princeton University. The HSC instrumentation and software were developed "
        "by the National Astronomical Observatory of Japan (NAOJ), the Kavli Institute for the "
        "Physics and Mathematics of the Universe (Kavli IPMU), the University of Tokyo, the High "
        "Energy Accelerator Research Organization (KEK), the Academia Sinica Institute for "
        "Astronomy and Astrophysics in Taiwan (ASIAA), and Princeton University. The full text is "
        "at https://hsc-release.mtk.nao.ac.jp/doc/index.php/acknowledging-hsc."
    ),
    bibtex={
        _PDR3: """@article{aihara2022, author={Aihara, H. and others},
  title={Third data release of the Hyper Suprime-Cam Subaru Strategic Program},
  journal={PASJ}, year={2022}, volume={74}, pages={247}, doi={10.1093/pasj/psab122}}""",
        _PIPELINE: """@article{bosch2018, author={Bosch, J. and others},
  title={The Hyper Suprime-Cam software pipeline},
  journal={PASJ}, year={2018}, volume={70}, pages={S5}, doi={10.1093/pasj/psx080}}""",
    },
)
