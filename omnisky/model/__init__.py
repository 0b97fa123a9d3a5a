"""Model room: the any-to-any transformer, its masking, generation and pretrained weights."""

from omnisky.model.config import ModelConfig
from omnisky.model.model import Embedding, Model
from omnisky.pretrained import pretrained_folder
from omnisky.pretrained import shipped_models as shipped

__all__ = ["Embedding", "Model", "ModelConfig", "pretrained_folder", "shipped"]
