"""scikit-learn estimators on pretrained models: probes, fine-tuning, calibrated intervals."""

from omnisky.adapt.embedder import Embedder
from omnisky.adapt.finetuned import FineTunedModel

__all__ = ["Embedder", "FineTunedModel"]
