"""What is compared: baselines and fine-tuned models, by name, each with its settings on record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from omnisky.adapt import FineTunedModel
from omnisky.baselines import ConvNetBaseline, MLPBaseline, RidgeBaseline, TreesBaseline
from omnisky.pretrained import pretrained_folder

__all__ = ["ADAPTATIONS", "BASELINES", "Method", "method", "weights_sha256"]

BASELINES: dict[str, type] = {
    "ridge": RidgeBaseline,
    "trees": TreesBaseline,
    "mlp": MLPBaseline,
    "convnet": ConvNetBaseline,
}
ADAPTATIONS = ("linear", "attentive", "full")
# Raise a number when a change of code, not of settings, moves that method's scores.
_REVISIONS = {**dict.fromkeys((*BASELINES, *ADAPTATIONS), 1), "attentive": 4, "full": 4}
# The same for a fit that serves all inputs, where that alone moved.
_ONE_PROBE_REVISIONS = {**_REVISIONS, "attentive": 5, "full": 5}


@dataclass(frozen=True, kw_only=True)
class Method:
    """Name a method and make its estimator.

    Parameters
    ----------
    name : str
        ``"mlp"``, or ``"attentive@nano"`` for an adaptation of a pretrained model.
    make : callable
        ``make(seed, one_probe)`` returns an unfitted estimator.
    base : str, optional
        Pretrained model, by name or folder; baselines have none.
    """

    name: str
    make: Callable[[int, bool], Any]
    base: str | None = None

    @property
    def blends(self) -> bool:
        """True if the method blends parts by labels of objects that are new to its base."""
        return self.name.partition("@")[0] in ("attentive", "full")

    def config(self, *, one_probe: bool) -> dict[str, str]:
        """Return what identifies the method on a result card, seed left out."""
        estimator = self.make(0, one_probe)
        parameters = {k: repr(v) for k, v in sorted(estimator.get_params(deep=False).items())}
        parameters.pop("random_state")
        family = self.name.partition("@")[0]
        revisions = _ONE_PROBE_REVISIONS if one_probe else _REVISIONS
        return {
            "estimator": type(estimator).__name__,
            "revision": str(revisions[family]),
            **parameters,
        }


def method(name: str) -> Method:
    """Return a method by name.

    Parameters
    ----------
    name : str
        A baseline, or ``adaptation@base``; without a base it is ``nano``.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    family, _, base = name.partition("@")
    if family in BASELINES and not base:
        return Method(name=family, make=lambda seed, _: BASELINES[family](random_state=seed))
    if family not in ADAPTATIONS:
        raise ValueError(
            f"unknown method {name!r}; choose from {', '.join(BASELINES)}, or "
            f"{', '.join(ADAPTATIONS)} followed by @ and a pretrained model (attentive@nano)"
        )
    base = base or "nano"

    def make(seed: int, one_probe: bool) -> FineTunedModel:
        model = FineTunedModel(base=base, adaptation=family, random_state=seed)
        # A probe for one input set need not practise missing inputs.
        return model if one_probe else model.set_params(modality_dropout=0.0)

    return Method(name=f"{family}@{base}", make=make, base=base)


@cache
def weights_sha256(base: str | None) -> str | None:
    """Return the SHA-256 of all weight files of a pretrained model; None without one.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    """
    if base is None:
        return None
    folder = pretrained_folder(base)
    weights = sorted(folder.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for path in weights:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
