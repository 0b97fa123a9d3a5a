"""A stand-in for the hub, and for what huggingface_hub keeps of it on the disk."""

import hashlib
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

COMMIT = hashlib.sha1(b"a commit").hexdigest()


def put_into_cache(source: Path, cache: Path, hub_id: str, revision: str = "main") -> Path:
    """Put files into a local cache as huggingface_hub lays it out."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(source, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(COMMIT)
    return snapshot


def run_offline(code: str, cache: Path) -> str:
    """Run code in another process that may read this cache and nothing else; return its output."""
    root = str(Path(__file__).parents[2])
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "PYTHONPATH": root}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Hub:
    """Stand in for the hub: hand out files of a folder and remember what was asked."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache, self.calls = source, cache, []

    def __call__(self, repository, *, revision=None, allow_patterns):
        self.calls.append((repository, revision, list(allow_patterns)))
        snapshot = self.cache / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in self.source.rglob("*"):
            name = path.relative_to(self.source).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, snapshot / name)
        return str(snapshot)

    @property
    def revisions(self) -> list[str | None]:
        """Revisions that were asked for."""
        return [revision for _, revision, _ in self.calls]

    @property
    def fetched(self) -> set[str]:
        """Weights that were handed out."""
        there = self.cache.rglob("*.safetensors")
        return {path.relative_to(self.cache / COMMIT).as_posix() for path in there}


# What the model below reads.
RELEASED = ("desi_z", "legacysurvey_flux_g", "legacysurvey_flux_r", "sdss_z")


def write_released_model(folder: Path) -> Path:
    """Write a small untrained model, codecs beside it, as AION-1 was released."""
    import torch

    from omnisky.model.aion import released_modalities, write_released
    from omnisky.model.config import ModelConfig
    from omnisky.model.transformer import Transformer
    from tests.codecs.scalars import peer

    listed = released_modalities(["tok_flux_g", "tok_flux_r", "tok_z"])
    sizes = {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Transformer(ModelConfig(**sizes, positions="fixed", modalities=listed))
    write_released(network, folder)
    for name in ("FLUX_G", "FLUX_R", "Z"):
        peer.write(folder, name, peer.build(name))
    return folder
