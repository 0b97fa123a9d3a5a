"""Configuration of the latent-grid spectrum codec."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LatentSpectrumCodecConfig"]


@dataclass(frozen=True, kw_only=True)
class LatentSpectrumCodecConfig:
    """Configure a latent-grid spectrum codec; the defaults have the size of AION-1's.

    Parameters
    ----------
    modalities : tuple of str
        Names of the modalities, all in the same unit or of relative flux.
    wavelength_nm : (float, float, int)
        First pixel centre, step and number of pixels of the latent grid.
    encoder_depths, encoder_dims : tuple of int
        Blocks and channels of each stage of the encoder.
    decoder_depths, decoder_dims : tuple of int
        The same of the decoder; the last stage has the two channels of the output.
    quantiser : {"lfq", "fsq"}
        Signs, or levels.
    levels : tuple of int
        Levels of each latent dimension; all 2 for signs.
    normalisation : {"native", "aion"}
        How level and inverse error are defined. "aion": the level is log10 (m + 1) with m the sum
        of the flux of good pixels over their number plus one, at least 0.1, rounded up to the next
        bin, and the inverse error is divided by it. "native": the level is log10 of the median flux
        of good pixels, rounded to the nearest bin, and the inverse error is multiplied by it.
    log_range : (float, float)
        Range of the level.
    bins : int
        Bins of the level, the vocabulary of the normalisation token.
    input_scaling : float
        Factor on both inputs before ``asinh``.
    clip_ivar, clip_flux : float, optional
        Limits of inverse variance and absolute flux, in the modality's unit.
    gap_nm : float
        Widest gap between good pixels that flux is interpolated across.
    error_floor : float
        Fractional error added in quadrature in the loss.
    compat : str
        ``"aion-0.0.2"``: do what the release does also where it is wrong.
    """

    modalities: tuple[str, ...]
    wavelength_nm: tuple[float, float, int] = (350.0, 0.08, 8704)
    encoder_depths: tuple[int, ...] = (3, 3, 27, 3)
    encoder_dims: tuple[int, ...] = (64, 128, 256, 512)
    decoder_depths: tuple[int, ...] = (3, 9, 3, 3)
    decoder_dims: tuple[int, ...] = (256, 128, 64, 2)
    quantiser: str = "lfq"
    levels: tuple[int, ...] = (2,) * 10
    normalisation: str = "native"
    log_range: tuple[float, float] = (-1.0, 6.0)
    bins: int = 1024
    input_scaling: float = 0.2
    clip_ivar: float | None = None
    clip_flux: float | None = None
    gap_nm: float = 2.56
    error_floor: float = 0.0
    compat: str = ""

    @property
    def patch(self) -> int:
        """Pixels of the latent grid that a code covers."""
        return 4 * 2 ** (len(self.encoder_dims) - 1)

    def __post_init__(self) -> None:
        stages = {
            len(values)
            for values in (
                self.encoder_depths,
                self.encoder_dims,
                self.decoder_depths,
                self.decoder_dims,
            )
        }
        wrong = (
            (not self.modalities, "at least one modality"),
            (len(stages) != 1, "as many depths as dims, and as many in the decoder"),
            (self.decoder_dims[-1:] != (2,), "a decoder whose last stage has 2 channels"),
            (self.wavelength_nm[2] % self.patch != 0, f"a multiple of {self.patch} pixels"),
            (self.quantiser not in ("lfq", "fsq"), "quantiser 'lfq' or 'fsq'"),
            (self.quantiser == "lfq" and set(self.levels) != {2}, "levels of 2 for LFQ"),
            (self.normalisation not in ("native", "aion"), "normalisation 'native' or 'aion'"),
        )
        for is_wrong, needed in wrong:
            if is_wrong:
                raise ValueError(f"latent spectrum codec: needs {needed}; found {self}")
