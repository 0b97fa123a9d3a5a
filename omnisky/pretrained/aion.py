"""The codec folders of an AION-1 checkpoint, and the modalities each is of."""

from __future__ import annotations

from omnisky.modalities import UnknownModalityError

__all__ = ["NAMES", "folder_name"]

# Folder under codecs/ → modalities here that it encodes.
NAMES: dict[str, tuple[str, ...]] = {
    "image": ("legacysurvey_image", "hsc_image"),
    "spectrum": ("desi_spectrum", "sdss_spectrum"),
    "segmentation_map": ("legacysurvey_segmentation",),
    "catalog": ("legacysurvey_catalog",),
    **{
        f"FLUX_{band.upper()}": (f"legacysurvey_flux_{band}",)
        for band in ("g", "r", "i", "z", "w1", "w2", "w3", "w4")
    },
    "SHAPE_R": ("legacysurvey_shape_r",),
    "SHAPE_E1": ("legacysurvey_shape_e1",),
    "SHAPE_E2": ("legacysurvey_shape_e2",),
    "EBV": ("legacysurvey_ebv",),
    "Z": ("desi_z", "sdss_z"),
    **{f"a_{band}": (f"hsc_a_{band}",) for band in "grizy"},
    **{f"{band}_cmodel_mag": (f"hsc_{band}_cmodel_mag",) for band in "grizy"},
    **{f"i_sdssshape_shape{ij}": (f"hsc_shape{ij}",) for ij in ("11", "22", "12")},
    **{f"phot_{band}_mean_flux": (f"gaia_flux_{band}",) for band in ("g", "bp", "rp")},
    "parallax": ("gaia_parallax",),
    "ra": ("gaia_ra",),
    "dec": ("gaia_dec",),
    "bp_coefficients": ("gaia_xp_bp",),
    "rp_coefficients": ("gaia_xp_rp",),
}


def folder_name(modality: str) -> str:
    """Return the folder that holds a modality's codec in an AION-1 checkpoint.

    Raises
    ------
    UnknownModalityError
        If AION-1 has no such modality.
    """
    for name, modalities in NAMES.items():
        if modality in modalities:
            return name
    known = ", ".join(m for modalities in NAMES.values() for m in modalities)
    raise UnknownModalityError(f"AION-1 has no codec of {modality!r}; it has codecs of {known}")
