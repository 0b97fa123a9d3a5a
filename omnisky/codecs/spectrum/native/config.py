"""What a codec of spectra on their own pixels may be told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NativeSpectrumCodecConfig"]


@dataclass(frozen=True, kw_only=True)
class NativeSpectrumCodecConfig:
    """Configure a codec of spectra on their own pixels.

    Parameters
    ----------
    modalities : tuple of str
        Names of the modalities it is trained on.
    untrained : tuple of str
        Names of further modalities that it encodes, since only wavelengths matter.
    n_amplitudes : int
        Amplitude tokens.
    bins : int
        Bins of the normalisation, the noise and each amplitude.
    levels : tuple of int
        Levels of each digit of the code tokens.
    quantiser : {"fsq", "lfq"}
        Finite scalar or lookup-free quantisation; the latter has two levels everywhere.
    width, depth : int
        Channels and residual blocks of the encoder and of the decoder.
    error_floor : float
        Fractional error added in quadrature in fits and loss, so that few very bright objects do
        not outweigh all others.
    mask_weight : float
        Weight of the mask's cross-entropy in the loss.
    """

    modalities: tuple[str, ...]
    untrained: tuple[str, ...] = ()
    n_amplitudes: int = 24
    bins: int = 1024
    levels: tuple[int, ...] = (8, 5, 5, 5)
    quantiser: str = "fsq"
    width: int = 96
    depth: int = 3
    error_floor: float = 0.01
    mask_weight: float = 10.0

    def __post_init__(self) -> None:
        if not self.modalities or min(self.n_amplitudes, self.width, self.depth, self.bins - 3) < 1:
            raise ValueError(
                "native spectrum codec: needs modalities, n_amplitudes, width and depth of at "
                f"least 1, and 4 bins; found {self}"
            )
        if self.quantiser not in ("fsq", "lfq"):
            raise ValueError(f"quantiser must be 'fsq' or 'lfq'; found {self.quantiser!r}")
        if self.quantiser == "lfq" and set(self.levels) != {2}:
            raise ValueError(f"LFQ has levels of 2 only; found {self.levels}")
