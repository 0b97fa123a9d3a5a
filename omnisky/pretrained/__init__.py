"""Pretrained room: what ships, and how models and codecs are found and asked without loading them.

Nothing here needs torch, so that commands can refuse a table before they load a model.
"""

from omnisky.pretrained.aion import DOMAINS, NAMES, SEQUENCE, folder_name
from omnisky.pretrained.contents import (
    codec_folders,
    codec_modalities,
    config_of,
    is_own,
    is_released,
    modalities_of,
    referred,
)
from omnisky.pretrained.finding import (
    codec_folder,
    pinned,
    pretrained_folder,
    shipped_codecs,
    shipped_models,
    source_of,
)
from omnisky.pretrained.hub import fetch, hub_id

__all__ = [
    "DOMAINS",
    "NAMES",
    "SEQUENCE",
    "codec_folder",
    "codec_folders",
    "codec_modalities",
    "config_of",
    "fetch",
    "folder_name",
    "hub_id",
    "is_own",
    "is_released",
    "modalities_of",
    "pinned",
    "pretrained_folder",
    "referred",
    "shipped_codecs",
    "shipped_models",
    "source_of",
]
