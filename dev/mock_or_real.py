"""Train small classifiers to tell mock cut-outs from real ones, and report how well they do.

    python dev/mock_or_real.py gz_decals_images.parquet --out mock_or_real.json

The real images are the JPEG files of Galaxy Zoo DECaLS in a Parquet file with a column
``image_jpeg``: 212 pixels a side, made from cut-outs of 424 pixels of max(0.04 p50, 0.1) arcsec,
with p50 the half-light radius (Walmsley et al. 2022). Mock images are made as these were: bright,
face-on disks with arms, a bar or a ring, rendered in grz at 0.262 arcsec with everything that the
mock universe has, resampled to the same scale in the same way, stretched by the same colour
mapping, halved, and compressed with the quantisation tables and the subsampling of the real files.

Two classifiers, each over some random halves: a linear one on hand-made features (levels, colours,
spectrum and correlation of the noise, radial profile), and a small convolutional network with
mirror and rotation augmentation. An accuracy of 0.5 would be mocks that nothing can tell apart.
Galaxies that people vote for are brighter than those of a flux-limited sample, so that mocks are
also compared after each real image was given the mock of the nearest surface brightness.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from omnisky.mock.gallery import rgb
from omnisky.mock.images import ImageModel
from omnisky.mock.population import UniverseConfig, draw_with_fluxes
from omnisky.mock.truth import Truth

_SIDE = 212
_CHUNK = 400


def real_images(path: Path) -> tuple[list[np.ndarray], Any]:
    """Return decoded images (y, x, 3), and how their files were compressed."""
    files = pq.read_table(path, columns=["image_jpeg"])["image_jpeg"].to_pylist()
    first = Image.open(io.BytesIO(files[0]))
    tables = getattr(first, "quantization", None)
    sampling = {1: 0, 2: 2}[first.layer[0][1]] if hasattr(first, "layer") else 2  # type: ignore
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return images, {"qtables": tables, "subsampling": sampling}


def mock_images(n: int, seed: int, compression: dict[str, Any]) -> list[np.ndarray]:
    """Return mock images made like the real ones."""
    config = UniverseConfig(seed=seed, kinds=(1, 0, 0), samples=(0, 1, 0, 0, 0), area_deg2=5000)
    model, images, start = ImageModel(config, "legacysurvey"), [], 0
    while len(images) < n:
        truth, fluxes = draw_with_fluxes(config, np.arange(start, start + _CHUNK))
        start += _CHUNK
        for i in np.flatnonzero(_chosen(truth)).tolist():
            if len(images) < n:
                images.append(_mock(model, truth[i : i + 1], fluxes[i], compression))
    return images


def _chosen(truth: Truth) -> np.ndarray:
    """Choose as votes chose the real ones: disturbed, merging, barred or spiral to the eye."""
    return np.isin(truth["morph_visible"], (0, 1, 5, 6, 7))


def _mock(
    model: ImageModel, truth: Truth, fluxes: np.ndarray, compression: dict[str, Any]
) -> np.ndarray:
    """Render one galaxy and bring it into the form of the real files."""
    scale = max(0.04 * _half_light(model, truth, fluxes), 0.1)
    native = model.instrument.pixel_scale_arcsec
    size = min(2 * math.ceil(212 * scale / native) + 8, 1600)
    seen = model.render(truth, fluxes, size=size, maps=False)
    step = scale / native
    place = (size - 1) / 2 + step * (np.arange(424) - 211.5)
    planes = [
        ndimage.map_coordinates(seen.flux[k], np.meshgrid(place, place, indexing="ij"), order=3)
        for k in (0, 1, 3)
    ]
    # The viewer leaves values as they are whatever the scale, so that the stretch sees native ones.
    image = Image.fromarray(np.ascontiguousarray(rgb(np.stack(planes), ("g", "r", "z"), native)))
    # Means of 2 x 2 pixels: of usual ways, what keeps the spectrum of the noise of the real files.
    image = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, format="JPEG", **compression)
    return np.asarray(Image.open(file).convert("RGB"))


def surface_brightness(image: np.ndarray) -> float:
    """Return the mean brightness within 12 pixels of the middle, r mag a square arcsec."""
    low, high = math.asinh(-0.5), math.asinh(300)
    flux: np.ndarray = np.sinh(image[..., 1] / 255 * (high - low) + low) * (0.014 / 0.262**2)
    y, x = np.indices(flux.shape) - (_SIDE - 1) / 2
    far = np.hypot(x, y)
    light = flux[far < 12].mean() - np.median(flux[far > 95])
    return 22.5 - 2.5 * math.log10(max(light, 1e-3))


def matched(real: list[np.ndarray], pool: list[np.ndarray]) -> list[np.ndarray]:
    """Return one mock for each real image, from the pool: that of the nearest brightness."""
    left = {k: surface_brightness(image) for k, image in enumerate(pool)}
    chosen = []
    for image in real:
        wanted = surface_brightness(image)
        nearest = min(left, key=lambda k: abs(left[k] - wanted))
        chosen.append(pool[nearest])
        del left[nearest]
    return chosen


def _half_light(model: ImageModel, truth: Truth, fluxes: np.ndarray) -> float:
    """Return the radius in arcsec of half the light within two Petrosian radii, in r."""
    size = 384
    seen = model.render(truth, fluxes, size=size, noise=False, neighbours=False, maps=False)
    y, x = np.indices((size, size)) - (size - 1) / 2
    ring = np.hypot(x, y).astype(int).ravel()
    light = np.bincount(ring, seen.flux[1].ravel())[: size // 2]
    pixels = np.bincount(ring)[: size // 2]
    inside, area = np.cumsum(light), np.cumsum(pixels)
    # Petrosian: where the brightness falls to a fifth of the mean within.
    below = np.flatnonzero((light / pixels)[2:] < 0.2 * (inside / area)[2:])
    radius = 2 * (below[0] + 2) if below.size else size // 2 - 1
    total = inside[min(radius, len(inside) - 1)]
    return float(np.searchsorted(inside, total / 2) + 0.5) * model.instrument.pixel_scale_arcsec


def features(image: np.ndarray) -> np.ndarray:
    """Return hand-made features of one image."""
    values = image.astype(np.float64)
    grey = values.mean(axis=2)
    found = []
    corners = np.concatenate([values[:48, :48], values[:48, -48:], values[-48:, :48]])
    for channel in range(3):
        found += list(np.percentile(corners[..., channel], [5, 25, 50, 75, 95, 99]))
    noise = np.clip(corners - np.median(corners, axis=(0, 1)), -15, 15)
    variance = (noise**2).mean() + 1e-6
    for shift in (1, 2, 3):
        found.append((noise[:, shift:] * noise[:, :-shift]).mean() / variance)
        found.append((noise[shift:] * noise[:-shift]).mean() / variance)
    flat = noise.reshape(-1, 3)
    found += list(np.asarray(np.corrcoef(flat.T))[np.triu_indices(3, 1)])
    y, x = np.indices(grey.shape) - (_SIDE - 1) / 2
    ring = (np.hypot(x, y) / 8).astype(int)
    for of in (grey, values[..., 0] - values[..., 2]):
        total = np.bincount(ring.ravel(), of.ravel(), minlength=13)[:13]
        found += list(total / np.bincount(ring.ravel(), minlength=13)[:13])
    power = np.abs(np.fft.fft2(grey * np.outer(np.hanning(_SIDE), np.hanning(_SIDE)))) ** 2
    k = (np.hypot(*np.meshgrid(*[np.fft.fftfreq(_SIDE)] * 2)) * 30).astype(int)
    found += list(np.log(np.bincount(k.ravel(), power.ravel())[1:15]))
    found += list(np.percentile(np.hypot(*np.gradient(grey)), [50, 90, 99, 99.9]))
    return np.array(found)


class Network(nn.Module):
    """Tell two kinds of images apart: four convolutions and a mean."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU()]
        for before, after in ((16, 24), (24, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(64, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (image,) of images (image, 3, y, x)."""
        return self.head(self.body(images).mean(dim=(2, 3)))[:, 0]


def train(images: torch.Tensor, labels: torch.Tensor, *, epochs: int, seed: int) -> Network:
    """Train a network on images (image, 3, y, x) and labels 0 or 1."""
    torch.manual_seed(seed)
    network = Network()
    steps = epochs * math.ceil(len(images) / 32)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            some = images[batch]
            if torch.rand(()) < 0.5:
                some = some.flip(-1)
            some = torch.rot90(some, int(torch.randint(4, ())), (2, 3))
            loss = nn.functional.binary_cross_entropy_with_logits(network(some), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def compare(real: list[np.ndarray], mock: list[np.ndarray], args: argparse.Namespace) -> dict:
    """Return held-out accuracy and area under the curve of both classifiers."""
    images = np.stack(real + mock)
    labels = np.repeat([0, 1], [len(real), len(mock)])
    table = np.stack([features(image) for image in images])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    target = torch.from_numpy(labels).float()
    found: dict[str, list[float]] = {
        f"{c}_{m}": [] for c in ("linear", "network") for m in ("accuracy", "auc")
    }
    for seed in range(args.seeds):
        order = np.random.default_rng(seed).permutation(len(labels))
        learn, test = np.split(order, [int(0.6 * len(order))])
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        scores = {"linear": linear.fit(table[learn], labels[learn]).decision_function(table[test])}
        network = train(pixels[learn], target[learn], epochs=args.epochs, seed=seed)
        with torch.no_grad():
            parts = [network(part) for part in pixels[test].split(64)]
        scores["network"] = torch.cat(parts).numpy()
        for name, score in scores.items():
            found[f"{name}_accuracy"].append(float(accuracy_score(labels[test], score > 0)))
            found[f"{name}_auc"].append(float(roc_auc_score(labels[test], score)))
        print({name: round(values[-1], 3) for name, values in found.items()}, flush=True)
    return found


def main() -> None:
    """Make mocks, train, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("real", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the universe")
    parser.add_argument("--seeds", type=int, default=3, help="random splits")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pool", type=int, default=3, help="mocks to match from, per real image")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet: real above, mock below")
    args = parser.parse_args()
    torch.set_num_threads(1)
    real, compression = real_images(args.real)
    pool = mock_images(args.pool * len(real), args.seed, compression)
    result: dict[str, Any] = {"n_real": len(real), "n_pool": len(pool)}
    for name, mock in (("as_drawn", pool[: len(real)]), ("matched", matched(real, pool))):
        if args.sheet:
            rows = [np.hstack(some[k : k + 8]) for some in (real, mock) for k in (0, 8, 16)]
            Image.fromarray(np.vstack(rows)).save(args.sheet.with_stem(f"{args.sheet.stem}-{name}"))
        brightness = [[surface_brightness(image) for image in some] for some in (real, mock)]
        found = compare(real, mock, args)
        result[name] = {
            "median_brightness_real_mock": [float(np.median(some)) for some in brightness],
            "mean_and_scatter": {
                k: [float(np.mean(v)), float(np.std(v))] for k, v in found.items()
            },
            "all": found,
        }
        print(name, json.dumps(result[name]["mean_and_scatter"], indent=1), flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
