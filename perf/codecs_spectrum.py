"""Measure AION-1's spectrum codec of paper size, here and in polymathic-aion; write JSON.

    python perf/codecs_spectrum.py --out perf/results/codecs_spectrum.json

Four contenders with the same random weights and the same DESI-like spectra, each in a process of
its own that only works when it is its turn, one after the other in every round: the peer as
shipped, the peer tuned (malloc without mmap, autocast to bfloat16), ours exact, ours in bfloat16.
Ratios are medians of the ratios of rounds. The speed of matrix products, of the best of three
sizes, is measured in every round too. `times_peer` is of wall time, `times_peer_cpu` of processor
time, which neighbours on the machine disturb less. Memory is the peak of the resident set in the
first round, which is not timed, above what it was before the call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import reset_peak, resident_mb, trim, tune_malloc
from turns import contenders, gemm_speeds, ratios

from omnisky.bench.cards import environment
from omnisky.codecs import Codec, LatentSpectrumCodec
from omnisky.modalities import Spectrum

CONTENDERS = ("peer", "peer_tuned", "exact", "bf16")
TASKS = ("encode", "decode")
WAVELENGTH = 360.0 + 0.08 * np.arange(7781)
CONFIG = {
    "encoder_depths": [3, 3, 27, 3],
    "encoder_dims": [64, 128, 256, 512],
    "decoder_depths": [3, 9, 3, 3],
    "decoder_dims": [256, 128, 64, 2],
    "lambda_min": 3500.0,
    "resolution": 0.8,
    "num_pixels": 8704,
    "latent_channels": 512,
    "embedding_dim": 10,
    "clip_ivar": 100.0,
    "clip_flux": None,
    "input_scaling": 0.2,
    "normalization_range": [-1, 5],
    "codebook_size": 1024,
    "dim": 10,
}
_Task = Callable[[], torch.Tensor]


def write_peer(folder: Path) -> None:
    """Write the peer's codec with random weights as a released folder.

    Response normalisation starts closed; it is opened, so that all branches count, and the bits are
    balanced.
    """
    from aion.codecs.spectrum import SpectrumCodec
    from safetensors.torch import save_file

    torch.manual_seed(0)
    peer = SpectrumCodec(**CONFIG).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "grn" in name:
                torch.nn.init.normal_(parameter, 0.0, 0.3)
        latent, _ = peer._encode(as_peer(spectra(4, seed=1)))
        peer.quant_conv.bias -= latent.movedim(1, 0).flatten(1).median(1).values
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = {name: tensor.contiguous().clone() for name, tensor in peer.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def spectra(count: int, seed: int = 0) -> Spectrum:
    """Return DESI-like spectra: a slope, lines, noise, levels over three decades."""
    rng = np.random.default_rng(seed)
    flux = np.exp(rng.normal(0, 1, (count, 1)) * (WAVELENGTH / 600 - 1))
    for _ in range(10):
        centre = rng.uniform(360, 982, (count, 1))
        flux += rng.uniform(-0.5, 5, (count, 1)) * np.exp(-0.5 * ((WAVELENGTH - centre) / 0.4) ** 2)
    error = np.broadcast_to(10 ** rng.uniform(-1.5, 0.5, (count, 1)), flux.shape)
    flux = 10 ** rng.uniform(-0.5, 2.5, (count, 1)) * flux + rng.normal(0, 1, flux.shape) * error
    return Spectrum(flux, 1 / error**2, None, WAVELENGTH)


def as_peer(found: Spectrum) -> Any:
    """Return spectra as the peer takes them."""
    from aion.modalities import DESISpectrum

    return DESISpectrum(
        flux=torch.from_numpy(found.flux),
        ivar=torch.from_numpy(found.ivar).float(),
        mask=torch.from_numpy(~found.mask),
        wavelength=torch.from_numpy(10 * found.wavelength).float().repeat(len(found), 1),
    )


def tasks_of_peer(folder: Path, found: Spectrum, ids: torch.Tensor, tuned: bool) -> list[_Task]:
    """Return the peer's encoding and decoding, as shipped or tuned."""
    from aion.codecs.spectrum import SpectrumCodec
    from safetensors.torch import load_file

    peer = SpectrumCodec(**CONFIG).eval()
    peer.load_state_dict(load_file(folder / "model.safetensors"))
    given = as_peer(found)

    def run(work: Callable[[], torch.Tensor]) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            return work()

    return [
        lambda: run(lambda: peer.encode(given)),
        lambda: run(lambda: peer.decode(ids, wavelength=given.wavelength).flux),
    ]


def tasks_of_ours(folder: Path, found: Spectrum, ids: torch.Tensor, precision: str) -> list[_Task]:
    """Return our encoding and decoding, from measurement to measurement."""
    codec = Codec.from_pretrained(folder, modality="desi_spectrum")
    assert isinstance(codec, LatentSpectrumCodec)
    codec.precision = precision
    return [
        lambda: codec.encode(found),
        lambda: torch.from_numpy(codec.decode(ids, wavelength=WAVELENGTH, threshold=1).flux),
    ]


def work(name: str, folder: Path, objects: int, threads: int, pipe: Connection) -> None:
    """Build a contender and do what is asked for, until None is."""
    torch.set_num_threads(threads)
    if name == "peer_tuned":
        tune_malloc()
    found = spectra(objects)
    ids = torch.randint(0, 1024, (objects, 273), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = ids[:, 0] % 600 + 200
    if name.startswith("peer"):
        tasks = tasks_of_peer(folder, found, ids, name == "peer_tuned")
    else:
        tasks = tasks_of_ours(folder, found, ids, "bf16" if name == "bf16" else "float32")
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        if asked == "gemm":
            pipe.send(gemm_speeds())
            continue
        if first := asked.startswith("first "):
            asked = asked.removeprefix("first ")
            trim()
            reset_peak()
        before = resident_mb("VmHWM")
        start, cpu = time.perf_counter(), time.process_time()
        result = tasks[TASKS.index(asked)]()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        pipe.send(
            (wall, cpu, resident_mb("VmHWM") - before if first else None, result.float().numpy())
        )


def flops() -> dict[str, float]:
    """Return the operations of one object, counted in the peer's network."""
    from aion.codecs.modules.convnext import ConvNextDecoder1d, ConvNextEncoder1d
    from torch.utils.flop_counter import FlopCounterMode

    encoder = ConvNextEncoder1d(2, CONFIG["encoder_depths"], CONFIG["encoder_dims"])
    decoder = ConvNextDecoder1d(512, CONFIG["decoder_depths"], CONFIG["decoder_dims"])
    counted = {}
    for task, network, shape in (
        ("encode", encoder, (1, 2, 8704)),
        ("decode", decoder, (1, 512, 272)),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(shape))
        counted[task] = counter.get_total_flops()
    return counted


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return all rounds of all contenders, in turns."""
    rounds: dict[str, Any] = {task: {name: [] for name in CONTENDERS} for task in TASKS}
    results: dict[str, Any] = {task: {} for task in TASKS}
    gemm = []
    with contenders(CONTENDERS, work, folder, asked.objects, asked.threads) as pipes:
        for turn in range(asked.rounds + 1):
            for task in TASKS:
                for name in CONTENDERS:
                    pipes[name].send(task if turn else f"first {task}")
                    *numbers, results[task][name] = pipes[name].recv()
                    rounds[task][name].append(numbers)
            pipes["exact"].send("gemm")
            gemm.append(pipes["exact"].recv())
    return {"rounds": rounds, "results": results, "gemm": gemm}


def summary(measured: dict[str, Any], objects: int) -> dict[str, Any]:
    """Return speeds, ratios, fractions of the machine, memory and agreement."""
    speed = {k: statistics.median(g[k] for g in measured["gemm"]) for k in ("float32", "bf16")}
    operations, found = flops(), {"gemm_gflop_per_second": speed}
    for task in TASKS:
        rounds = measured["rounds"][task]
        peers = {name: rounds[name][1:] for name in ("peer", "peer_tuned")}
        found[task] = {"gflop_per_object": operations[task] / 1e9}
        for name in CONTENDERS:
            first, *timed = rounds[name]
            wall, cpu = (statistics.median(entry[i] for entry in timed) for i in (0, 1))
            kind = "float32" if name in ("peer", "exact") else "bf16"
            found[task][name] = {
                "objects_per_second": objects / wall,
                "cpu_seconds_per_object": cpu / objects,
                **ratios(timed, peers),
                "fraction_of_gemm": operations[task] * objects / wall / 1e9 / speed[kind],
                "peak_memory_mb": first[2],
            }
            found[task][name] |= agreement(task, measured["results"][task], name)
    return found


def agreement(task: str, results: dict[str, np.ndarray], name: str) -> dict[str, float]:
    """Return how far a contender's result agrees with that of the peer as shipped."""
    ours, peer = results[name], results["peer"]
    if task == "encode":
        return {"tokens_equal": float((ours == peer).mean())}
    off = np.abs(ours - peer) / np.abs(peer).max(1, keepdims=True)
    return {"largest_error": float(off.max()), "median_error": float(np.median(off))}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--objects", type=int, default=8, help="spectra at a time (8)")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (all)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "codecs" / "spectrum"
        write_peer(folder)
        measured = measure(asked, folder)
    found = {
        "objects": asked.objects,
        "rounds": asked.rounds,
        "threads": asked.threads,
        **summary(measured, asked.objects),
        "load_average": os.getloadavg(),
        **environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
