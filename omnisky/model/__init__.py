"""Model room: the any-to-any transformer, its masking, generation and pretrained weights."""

from omnisky.model.config import ModelConfig
from omnisky.model.model import Embedding, Model, pretrained_folder, shipped

__all__ = ["Embedding", "Model", "ModelConfig", "pretrained_folder", "shipped"]
