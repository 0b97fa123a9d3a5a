"""AION-1's released networks: their domains and configurations, read and written."""

from omnisky.model.aion.checkpoint import (
    read_released,
    released_context,
    released_tokenizer,
    write_released,
)
from omnisky.model.aion.domains import (
    released_config,
    released_layout,
    released_modalities,
)

__all__ = [
    "read_released",
    "released_config",
    "released_context",
    "released_layout",
    "released_modalities",
    "released_tokenizer",
    "write_released",
]
