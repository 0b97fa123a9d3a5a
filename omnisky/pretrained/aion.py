"""AION-1 (arXiv:2510.17960): the codec folders of a checkpoint, and its token domains."""

from __future__ import annotations

from dataclasses import dataclass

from omnisky.modalities import UnknownModalityError

__all__ = ["DOMAINS", "NAMES", "SEQUENCE", "Domain", "folder_name"]

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


# The catalogue's domain, the only sequence.
SEQUENCE = "catalog"


@dataclass(frozen=True)
class Domain:
    """Describe one of the release's token domains.

    Parameters
    ----------
    codec : str
        Folder of its codec.
    modality : int
        Which of the modalities of that codec (`NAMES`) it is.
    vocabulary : int
        Number of ids.
    grid : tuple of int
        Rows and columns of tokens; one number for a sequence.
    """

    codec: str
    modality: int = 0
    vocabulary: int = 1024
    grid: tuple[int, ...] = (1, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities here: the first names it, others mean the same."""
        every = NAMES[self.codec]
        return every if self.codec == "Z" else (every[self.modality],)


def _domains() -> dict[str, Domain]:
    image, spectrum = (4375, (24, 24)), (1024, (273, 1))
    named = {
        "tok_image": Domain("image", 0, *image),
        "tok_image_hsc": Domain("image", 1, *image),
        "tok_segmap": Domain("segmentation_map", vocabulary=1000, grid=(12, 12)),
        SEQUENCE: Domain("catalog", vocabulary=3468, grid=(100,)),
        "tok_spectrum_desi": Domain("spectrum", 0, *spectrum),
        "tok_spectrum_sdss": Domain("spectrum", 1, *spectrum),
        "tok_z": Domain("Z", vocabulary=1025),
        "tok_xp_bp": Domain("bp_coefficients", grid=(55, 1)),
        "tok_xp_rp": Domain("rp_coefficients", grid=(55, 1)),
    }
    scalars = {
        **{f"tok_flux_{b}": f"FLUX_{b.upper()}" for b in "g r i z w1 w2 w3 w4".split()},
        **{f"tok_shape_{what}": f"SHAPE_{what.upper()}" for what in ("r", "e1", "e2")},
        "tok_ebv": "EBV",
        **{f"tok_a_{band}": f"a_{band}" for band in "grizy"},
        **{f"tok_mag_{band}": f"{band}_cmodel_mag" for band in "grizy"},
        **{f"tok_shape{ij}": f"i_sdssshape_shape{ij}" for ij in ("11", "22", "12")},
        **{f"tok_flux_{band}_gaia": f"phot_{band}_mean_flux" for band in ("g", "bp", "rp")},
        "tok_parallax": "parallax",
        "tok_ra": "ra",
        "tok_dec": "dec",
    }
    return named | {key: Domain(codec) for key, codec in scalars.items()}


# Token key of the release → what it is. 40 of them.
DOMAINS = _domains()
