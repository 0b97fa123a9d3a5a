"""The codec folders of an AION-1 checkpoint, and the modality each is of."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from omnisky.codecs.codec import Codec
from omnisky.modalities import UnknownModalityError
from omnisky.storage import CheckpointError, read_tensors

__all__ = ["COMPAT", "NAMES", "folder_name", "load_aion"]

# The release whose behaviour, right or wrong, can be asked for.
COMPAT = "aion-0.0.2"

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

# Folder → module beside this one whose ``load`` builds the codec; the rest are scalars.
_HOMES = {
    "image": "image",
    "spectrum": "spectrum",
    "segmentation_map": "surroundings",
    "catalog": "surroundings",
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


def load_aion(folder: Path, modality: str | None = None, *, compat: str | None = None) -> Codec:
    """Load a codec folder of AION-1.

    Parameters
    ----------
    folder : Path
        ``config.json`` and ``model.safetensors`` as released.
    modality : str, optional
        Which modality; by default the folder's own name says it.
    compat : {"aion-0.0.2"}, optional
        Also reproduce what that release does wrong.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If a file is missing, damaged, pickled, or its weights do not fit.
    UnknownModalityError
        If neither the name of the folder nor `modality` says what it is.
    """
    name = folder.name if modality is None else folder_name(modality)
    if name not in NAMES:
        raise UnknownModalityError(
            f"{folder} does not say what it encodes; give modality=..., or name the folder as "
            f"AION-1 does: {', '.join(NAMES)}"
        )
    config = json.loads((folder / "config.json").read_text())
    home = import_module(f"omnisky.codecs.aion.{_HOMES.get(name, 'scalars')}")
    try:
        codec = home.load(config, read_tensors(folder), NAMES[name], compat=compat)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        lacks = f"its configuration lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{folder} does not fit AION-1's codec {name!r}: {lacks}") from error
    return codec.eval().of(modality or NAMES[name][0])
