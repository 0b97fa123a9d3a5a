"""Fitted models on disk: one safetensors file and one JSON file, nothing that can execute."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnisky.adapt.conformal import ConformalScores
from omnisky.adapt.heads import EnsembleHead, HeadShape, Unit
from omnisky.adapt.inputs import device_of, load_base
from omnisky.adapt.labels import TargetScale
from omnisky.adapt.measured import MeasuredColumns
from omnisky.storage import CheckpointError, read_folder, write_folder

__all__ = ["load", "save"]

KIND = "finetuned"


def weights_sha256(network: Any) -> str:
    """Return the sha256 over names and values of a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save(
    model: Any,
    folder: Path,
    *,
    overwrite: bool,
    extra: Callable[[Path], object] | None = None,
) -> Path:
    """Write a fitted `FineTunedModel`, see its ``save``; `extra` adds files to the folder."""
    tensors = _tensors(model)
    return write_folder(folder, KIND, _config(model), tensors, extra=extra, overwrite=overwrite)


def _parameters(model: Any) -> dict[str, Any]:
    parameters = model.get_params(deep=False)
    base = parameters["base"]
    if model.base_ is not None:
        parameters["base"] = model.base_.source
    else:
        parameters["base"] = os.fspath(base) if isinstance(base, (str, os.PathLike)) else None
    state = parameters["random_state"]
    parameters["random_state"] = int(state) if isinstance(state, (int, np.integer)) else None
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in parameters.items()}


def _config(model: Any) -> dict[str, Any]:
    config = {
        "parameters": _parameters(model),
        "base_sha256": model.base_ and weights_sha256(model.base_.network),
        "modalities": model.modalities_,
        "patterns": model.patterns_,
        "target_ndim": model.target_ndim_,
        "measured": asdict(model.columns_),
        "head": asdict(model.units_[0].head.shape),
        "units": len(model.units_),
        "n_features_in": getattr(model, "n_features_in_", None),
        "feature_names_in": getattr(model, "feature_names_in_", np.empty(0)).tolist(),
    }
    if model.task == "classification":
        config["classes"] = {"values": model.classes_.tolist(), "dtype": str(model.classes_.dtype)}
    else:
        config["conformal"] = model.conformal_.method
    return config


def _tensors(model: Any) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for i, unit in enumerate(model.units_):
        tensors |= {f"units.{i}.head.{k}": v for k, v in unit.head.state_dict().items()}
        if unit.tuned is not None:
            tensors |= {f"units.{i}.tuned.{k}": v for k, v in unit.tuned.state_dict().items()}
    if model.task == "regression":
        tensors |= {f"scale.{k}": torch.as_tensor(v) for k, v in asdict(model.scale_).items()}
        scores = model.conformal_.scores.items()
        tensors |= {f"scores.{k}": torch.as_tensor(v) for k, v in scores}
    return {k: v.detach() for k, v in tensors.items()}


def load(kind: type, folder: Path, *, base: Any, device: Any = None) -> Any:
    """Read a fitted model, see ``FineTunedModel.load``."""
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file; expected the folder that save() wrote. Pickled models are "
            "refused: they can execute anything"
        )
    config, tensors = read_folder(folder, KIND)
    if "measured" not in config or any(_older(k, tensor) for k, tensor in tensors.items()):
        raise CheckpointError(
            f"{folder} was saved by an older omnisky, whose heads were fitted otherwise; fit again"
        )
    if base is None and config.get("base_sha256") and _unnamed(config):
        raise CheckpointError(
            f"{folder} was fitted on a Model made in memory, of which only the weights' sha256 is "
            f"known ({config['base_sha256'][:12]}…), no name; give base= (omnisky predict --base), "
            "the name or folder of that model"
        )
    try:
        model = _rebuild(kind, config, tensors, base)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} is damaged: its configuration and weights do not fit together ({error}); "
            "save the model again"
        ) from error
    if device is not None and model.base_ is not None:
        model.base_.to(device)
        for unit in model.units_:
            for part in (unit.head, unit.tuned):
                if part is not None:
                    part.to(device_of(model.base_))
    return model


def _older(name: str, tensor: Tensor) -> bool:
    """Tell tensors of older heads: they held their encoder, or blended all input patterns alike."""
    *_, last = name.split(".")
    return name.split(".")[2:3] == ["network"] or (last == "shares" and tensor.ndim == 2)


def _unnamed(config: dict[str, Any]) -> bool:
    parameters = config.get("parameters")
    return isinstance(parameters, dict) and parameters.get("base") is None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _rebuild(kind: type, config: dict[str, Any], tensors: dict[str, Tensor], base: Any) -> Any:
    model = kind(**config["parameters"])
    model.base_ = None
    if config["base_sha256"] is not None:
        model.base = model.base if base is None else base
        model.base_ = load_base(model.base)
        found = weights_sha256(model.base_.network)
        if found != config["base_sha256"]:
            raise CheckpointError(
                f"the pretrained model {model.base!r} has other weights (sha256 {found[:12]}…) "
                f"than that of the fit ({config['base_sha256'][:12]}…), which was another or was "
                "changed after it was read; give that as base=, saved by save_pretrained"
            )
    model.modalities_, model.patterns_ = config["modalities"], config["patterns"]
    model.columns_ = MeasuredColumns(**config["measured"])
    model.target_ndim_ = config["target_ndim"]
    if config["n_features_in"] is not None:
        model.n_features_in_ = config["n_features_in"]
    if config["feature_names_in"]:
        model.feature_names_in_ = np.array(config["feature_names_in"], dtype=object)
    model.units_ = [_unit(config, tensors, i, model.base_) for i in range(config["units"])]
    if "classes" in config:
        model.classes_ = np.array(config["classes"]["values"], dtype=config["classes"]["dtype"])
        return model
    scale = {f.name: tensors[f"scale.{f.name}"].numpy() for f in fields(TargetScale)}
    model.scale_ = TargetScale(**scale)
    scores = {k: v.numpy() for k, v in _part(tensors, "scores.").items()}
    model.conformal_ = ConformalScores(scores=scores, method=config["conformal"])
    return model


def _unit(config: dict[str, Any], tensors: dict[str, Tensor], i: int, base: Any) -> Unit:
    head = EnsembleHead(HeadShape(**{**config["head"], "asks": tuple(config["head"]["asks"])}))
    head.load_state_dict(_part(tensors, f"units.{i}.head."))
    head = head.to(device_of(base)).eval()
    weights = _part(tensors, f"units.{i}.tuned.")
    tuned = copy.deepcopy(base.network) if weights else None
    if tuned is not None:
        tuned.load_state_dict(weights)
    return Unit(head, base and base.network, tuned)
