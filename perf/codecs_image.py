"""Measure the paper-size image codec on a CPU against polymathic-aion's; write JSON.

    python perf/codecs_image.py --out perf/results/codecs_image.json
    python perf/codecs_image.py --quick

Both have the same random weights (gates opened, latents and fluxes scaled as training would) and
the same galaxy-like griz images. Five contenders take turns, round by round, so that a busy
neighbour slows all alike; ratios are the medians of the ratios of each round:

* peer: polymathic-aion as it is shipped, float32;
* peer tuned: bfloat16 by autocast, in a process whose malloc never uses mmap (fresh pages cost the
  peer a quarter of its time) — half precision changes tokens;
* ours: exact to the rounding of float32;
* ours torch: the same without compiled kernels;
* ours bf16: strided convolutions in bfloat16.

Times of the processor are summed over threads. Peak memory is how much the resident set grows, in a
fresh process each, from before the codecs are made or loaded: by loading them for both surveys from
a folder, and by then encoding and decoding a batch of each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import gemm_gflops, reset_peak, resident_mb, tune_malloc
from torch import Tensor, nn

from omnisky.bench.cards import environment
from omnisky.codecs import Codec
from omnisky.modalities import Image

CONFIG = {
    "quantizer_levels": [7, 5, 5, 5, 5],
    "hidden_dims": 512,
    "multisurvey_projection_dims": 54,
    "n_compressions": 2,
    "num_consecutive": 4,
    "embedding_dim": 5,
    "range_compression_factor": 0.01,
    "mult_factor": 10.0,
}
SURVEYS = {"legacysurvey_image": ("DES", "griz"), "hsc_image": ("HSC", "grizy")}
PIXEL_SCALE_ARCSEC = {"legacysurvey_image": 0.262, "hsc_image": 0.168}
CONTENDERS = ("peer", "peer tuned", "ours", "ours torch", "ours bf16")
TASKS = {"encode": 4, "decode": 4, "encode one": 1, "decode one": 1}
BATCH = 4


def galaxies(count: int, bands: str, seed: int = 0) -> np.ndarray:
    """Return fluxes of round and flat exponential disks with noise, in nanomaggies a pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96] - 47.5
    flux = 0.02 * rng.normal(size=(count, len(bands), 96, 96))
    for image in flux:
        shape = np.exp(-np.hypot(x, y * rng.uniform(1, 2)) / rng.uniform(2, 8))
        image += 10 ** rng.uniform(-1, 0.7) * shape * rng.uniform(0.5, 1.5, (len(bands), 1, 1))
    return flux.astype(np.float32)


def new_peer() -> nn.Module:
    """Return the peer's codec."""
    from aion.codecs.image import ImageCodec as PeerCodec

    return PeerCodec(**CONFIG).eval()


def peer_image(flux: np.ndarray, survey: str) -> Any:
    """Return images as the peer takes them; it changes them, hence a copy."""
    from aion.modalities import HSCImage, LegacySurveyImage

    prefix, bands = SURVEYS[survey]
    kind = {"DES": LegacySurveyImage, "HSC": HSCImage}[prefix]
    return kind(flux=torch.tensor(flux), bands=[f"{prefix}-{band.upper()}" for band in bands])


@torch.no_grad()
def write_codec(folder: Path) -> None:
    """Write a random codec in which all branches and codes count."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    peer: Any = new_peer()
    for name, parameter in peer.named_parameters():
        if name.endswith("net.4.net.2.weight"):
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        elif name.endswith("net.4.net.2.bias"):
            nn.init.zeros_(parameter)
    latent = peer._encode(peer_image(galaxies(2, "griz", seed=9), "legacysurvey_image"))
    std, mean = torch.std_mean(latent, (0, 2))
    peer.pre_quant_proj.weight /= std[:, None, None, None]
    peer.pre_quant_proj.bias.sub_(mean).div_(std)
    faint = peer.decode(torch.randint(4375, (1, 576)), bands=["DES-G", "DES-R"]).flux
    gain = 0.7 / (0.1 * torch.asinh(100 * faint)).abs().max()
    peer.subsample_out.weight *= gain
    peer.subsample_out.bias *= gain
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({k: t.contiguous() for k, t in peer.state_dict().items()}, folder / _WEIGHTS)


_WEIGHTS = "model.safetensors"


def load_peer(folder: Path) -> nn.Module:
    """Return the peer's codec with the weights of a folder, read as it reads them."""
    from safetensors.torch import load_file

    peer = new_peer()
    peer.load_state_dict(load_file(folder / _WEIGHTS))
    return peer


class Contender:
    """One codec in one process: encodes and decodes, and says how long it took."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.survey = name, "legacysurvey_image"
        self.codec: Any
        if name.startswith("peer"):
            self.codec = load_peer(folder)
        else:
            self.codec = Codec.from_pretrained(folder, self.survey)
            self.codec.precision = "bf16" if name == "ours bf16" else "float32"

    def encode(self, flux: np.ndarray) -> Tensor:
        """Return token ids."""
        bands = SURVEYS[self.survey][1]
        if not self.name.startswith("peer"):
            scale = PIXEL_SCALE_ARCSEC[self.survey]
            return self.codec.encode(Image(flux, bands=tuple(bands), pixel_scale_arcsec=scale))
        with torch.inference_mode(), self._autocast():
            return self.codec.encode(peer_image(flux, self.survey))

    def decode(self, ids: Tensor) -> np.ndarray:
        """Return fluxes in griz."""
        if not self.name.startswith("peer"):
            return self.codec.decode(ids).flux
        with torch.inference_mode(), self._autocast():
            return self.codec.decode(ids, bands=[f"DES-{b}" for b in "GRIZ"]).flux.float().numpy()

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.name == "peer tuned")


def serve(name: str, folder: Path, threads: int, pipe: Any) -> None:
    """Do what the other end of the pipe asks: (method, argument) → (answer, wall, processor s)."""
    if name == "peer tuned":
        tune_malloc()
    if name == "ours torch":
        os.environ["OMNISKY_NATIVE"] = "0"
    torch.set_num_threads(threads)
    contender = Contender(name, folder)
    while (asked := pipe.recv()) is not None:
        method, argument = asked
        wall, processor = time.perf_counter(), time.process_time()
        answer = getattr(contender, method)(argument)
        pipe.send((answer, time.perf_counter() - wall, time.process_time() - processor))


def take_turns(folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Time all tasks of all contenders round by round, and compare what they found."""
    context = mp.get_context("spawn")
    pipes, workers = {}, []
    for name in CONTENDERS:
        pipes[name], other = context.Pipe()
        workers.append(context.Process(target=serve, args=(name, folder, threads, other)))
        workers[-1].start()
        other.close()  # so that a failure there ends the wait here

    def ask(name: str, method: str, argument: Any) -> tuple[Any, float, float]:
        pipes[name].send((method, argument))
        return pipes[name].recv()

    flux = galaxies(BATCH, "griz")
    ids = {name: ask(name, "encode", flux)[0].long() for name in CONTENDERS}
    decoded = {name: ask(name, "decode", ids["peer"])[0] for name in CONTENDERS}
    seconds: dict[str, dict[str, list[tuple[float, float]]]] = {
        task: {name: [] for name in CONTENDERS} for task in TASKS
    }
    for _ in range(rounds):
        for task, count in TASKS.items():
            for name in CONTENDERS:
                method = task.split()[0]
                given = flux[:count] if method == "encode" else ids["peer"][:count]
                seconds[task][name].append(ask(name, method, given)[1:])
    for name, worker in zip(CONTENDERS, workers, strict=True):
        pipes[name].send(None)
        worker.join()
    return {"tasks": summary(seconds), "agreement": agreement(ids, decoded)}


def summary(seconds: dict[str, dict[str, list[tuple[float, float]]]]) -> dict[str, Any]:
    """Return medians of times and of the ratios of each round."""
    found: dict[str, Any] = {}
    for task, by_name in seconds.items():
        found[task] = {}
        for name, times in by_name.items():
            wall, processor = zip(*times, strict=True)
            found[task][name] = {
                "images_per_s": TASKS[task] / statistics.median(wall),
                "wall_s": statistics.median(wall),
                "processor_s": statistics.median(processor),
            }
            for peer in CONTENDERS[:2]:
                pairs = list(zip(by_name[peer], times, strict=True))
                found[task][name][f"times {peer}"] = statistics.median(
                    theirs[0] / mine[0] for theirs, mine in pairs
                )
                found[task][name][f"times {peer}, processor"] = statistics.median(
                    theirs[1] / mine[1] for theirs, mine in pairs
                )
    return found


def agreement(ids: dict[str, Tensor], decoded: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the fraction of the peer's tokens, and the error of its decoded fluxes."""
    theirs = np.arcsinh(100 * decoded["peer"])
    return {
        name: {
            "tokens_equal": float((ids[name] == ids["peer"]).double().mean()),
            "compressed_flux_relative_error": float(
                np.linalg.norm(np.arcsinh(100 * decoded[name]) - theirs) / np.linalg.norm(theirs)
            ),
        }
        for name in CONTENDERS
    } | {"distinct_tokens": len(ids["peer"].unique())}


def memory(kind: str, folder: Path, threads: int, pipe: Any) -> None:
    """Send the growth of memory by loading codecs for both surveys and by their use, in MB."""
    torch.set_num_threads(threads)
    import aion.codecs.image
    import aion.modalities  # noqa: F401
    import safetensors.torch  # noqa: F401

    fluxes = {survey: galaxies(BATCH, bands) for survey, (_, bands) in SURVEYS.items()}
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # threads and libraries
    before = resident_mb("VmRSS")
    reset_peak()
    contenders = [Contender(kind, folder)]
    if kind == "peer":
        contenders.append(Contender(kind, folder))
        contenders[1].survey = "hsc_image"
    else:
        contenders.append(contenders[0])
    found = {"load": resident_mb("VmHWM") - before, "loaded": resident_mb("VmRSS") - before}
    reset_peak()
    for contender, (survey, flux) in zip(contenders, fluxes.items(), strict=True):
        contender.survey = survey
        if kind != "peer":
            contender.codec = contender.codec.of(survey)
        contender.decode(contender.encode(flux))
    pipe.send(found | {"use": resident_mb("VmHWM") - before})


def peak_memory(folder: Path, threads: int) -> dict[str, Any]:
    """Return the growth of memory of the peer and of ours, each in a fresh process."""
    context = mp.get_context("spawn")
    found = {}
    for kind in ("peer", "ours"):
        here, there = context.Pipe()
        worker = context.Process(target=memory, args=(kind, folder, threads, there))
        worker.start()
        there.close()  # so that a failure there ends the wait here
        found[kind] = here.recv()
        worker.join()
    peaks = {kind: max(one["load"], one["use"]) for kind, one in found.items()}
    use = found["ours"]["use"] / found["peer"]["use"]
    return found | {"ours_over_peer": peaks["ours"] / peaks["peer"], "ours_over_peer_in_use": use}


def flops(folder: Path) -> dict[str, dict[str, float]]:
    """Return GFLOP of one image: of the peer's direct convolutions, and those that ours do."""
    from torch.utils.flop_counter import FlopCounterMode

    os.environ["OMNISKY_NATIVE"] = "0"  # the counter sees torch only; the kernels do as much
    found = {}
    flux, ids = galaxies(1, "griz"), torch.zeros((1, 576), dtype=torch.long)
    for name in ("peer", "ours"):
        contender = Contender(name, folder)
        found[name] = {}
        for method, given in (("encode", flux), ("decode", ids)):
            with FlopCounterMode(display=False) as counter:
                getattr(contender, method)(given)
            found[name][method] = counter.get_total_flops() / 1e9
    return found


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure everything."""
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "codecs" / "image"
        write_codec(folder)
        found: dict[str, Any] = {"threads": asked.threads, "load_before": os.getloadavg()[0]}
        found |= take_turns(folder, asked.threads, 1 if asked.quick else asked.rounds)
        found["memory_mb"] = peak_memory(folder, asked.threads)
        found["gflop"] = flops(folder)
    peak = found["gemm_gflops"] = gemm_gflops(tries=6)
    for method in ("encode", "decode"):
        for name in ("peer", "ours"):
            one = found["tasks"][method][name]
            rate = one["images_per_s"] * found["gflop"][name][method]
            one["fraction_of_gemm_peak"] = rate / peak
    return found | {**environment(), "created": datetime.now(UTC).isoformat(timespec="seconds")}


def show(found: dict[str, Any]) -> None:
    """Print a table."""
    print(f"{'':12s} {'':11s} {'images/s':>9s} {'CPU s':>7s} {'x peer':>7s} {'x tuned':>8s}")
    for task, by_name in found["tasks"].items():
        for name, one in by_name.items():
            print(
                f"{task:12s} {name:11s} {one['images_per_s']:9.2f} {one['processor_s']:7.2f} "
                f"{one['times peer']:7.2f} {one['times peer tuned']:8.2f}   CPU: "
                f"{one['times peer, processor']:.2f} {one['times peer tuned, processor']:.2f}"
            )
    for key in ("agreement", "memory_mb", "gflop", "gemm_gflops"):
        print(key, json.dumps(found[key], indent=1))
    for method in ("encode", "decode"):
        for name in ("peer", "ours"):
            fraction = found["tasks"][method][name]["fraction_of_gemm_peak"]
            print(f"{method}: {name} computes at {fraction:.2f} of the GEMM peak")


def main() -> int:
    """Measure, print, write; return 1 if a threshold is missed."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured turns (5)")
    parser.add_argument("--threads", type=int, default=2, help="of each contender (2)")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--least", type=float, default=0.0, help="fail if encode is below")
    asked = parser.parse_args()
    found = run(asked)
    show(found)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    times = found["tasks"]["encode"]["ours"]["times peer"]
    equal = found["agreement"]["ours"]["tokens_equal"]
    if times < asked.least or equal < 0.999:
        print(f"encode {times:.2f} times the peer, {equal:.4f} of tokens equal", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
