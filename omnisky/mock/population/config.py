"""What a mock universe holds and where it lies: the configuration everything is a function of."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

__all__ = ["SAMPLES", "UniverseConfig"]

SAMPLES = ("flux_limited", "bright", "luminous_red", "emission_line", "lens")
_SKY_DEG2 = 41252.96


@dataclass(frozen=True, kw_only=True)
class UniverseConfig:
    """State what a universe holds and where on the sky it lies.

    Parameters
    ----------
    seed : int
        Seed of all randomness, not negative.
    area_deg2 : float
        Area of the patch of sky in square degrees.
    center : (float, float)
        Right ascension and declination of the middle of the patch, ICRS degrees. The patch is
        bounded by circles of right ascension and declination and must not reach a pole.
    kinds : (float, float, float)
        Shares of galaxies, stars and quasars; scaled to sum to one.
    samples : tuple of float
        Shares of the galaxy samples, in the order of `SAMPLES`; scaled to sum to one.
    galaxy_limit, bright_limit : float
        r magnitudes (AB) down to which the flux-limited and the bright sample reach.
    star_limit : float
        Gaia G magnitude (Vega) down to which stars are drawn.
    white_dwarf_share : float
        Share of white dwarfs among stars. Along the default line of sight it would be 0.0003; more
        make them less rare in small universes, as the samples of galaxies do.
    quasar_limit : float
        i magnitude (AB) down to which quasars are drawn.
    hsc_fraction : float
        Share of the patch that the HSC-like survey covers.
    desi_completeness : float
        Share of possible targets with a DESI-like spectrum, fibre collisions aside.

    Raises
    ------
    ValueError
        If a share is negative, or the patch or a limit is impossible.
    """

    seed: int = 0
    area_deg2: float = 20.0
    center: tuple[float, float] = (217.0, 1.0)
    kinds: tuple[float, float, float] = (0.65, 0.25, 0.10)
    samples: tuple[float, ...] = (40.0, 20.0, 8.0, 6.0, 1.0)
    galaxy_limit: float = 19.5
    bright_limit: float = 17.0
    star_limit: float = 20.0
    white_dwarf_share: float = 0.01
    quasar_limit: float = 22.0
    hsc_fraction: float = 0.5
    desi_completeness: float = 0.7

    def __post_init__(self) -> None:
        whole = isinstance(self.seed, numbers.Integral) and not isinstance(self.seed, bool)
        if not whole or self.seed < 0:
            raise ValueError(f"seed must be an integer from 0 on; found {self.seed!r}")
        # NumPy's integers too: 1 and numpy.int64(1) are the same universe.
        object.__setattr__(self, "seed", int(self.seed))
        for name, length in (("kinds", 3), ("samples", len(SAMPLES)), ("center", 2)):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != length or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must be {length} finite numbers; found {values}")
        for name in ("kinds", "samples"):
            values = getattr(self, name)
            if min(values) < 0 or sum(values) <= 0:
                raise ValueError(
                    f"{name} must be shares from 0 on with a positive sum; found {values}"
                )
        for name in ("white_dwarf_share", "hsc_fraction", "desi_completeness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; found {getattr(self, name)}")
        self._check_limits()
        self._check_patch()

    def _check_limits(self) -> None:
        """Refuse limits for which the priors were not made."""
        for name, low, high in (
            ("galaxy_limit", 15.0, 21.5),
            ("bright_limit", 13.0, 19.0),
            ("star_limit", 12.0, 21.0),
            ("quasar_limit", 17.0, 23.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g} mag; found {value}")

    def _check_patch(self) -> None:
        """Refuse a patch that does not fit on the sphere."""
        if not 0 < self.area_deg2 <= _SKY_DEG2:
            raise ValueError(
                f"area_deg2 must be above 0 and at most {_SKY_DEG2:.0f}, the whole sky; found "
                f"{self.area_deg2}"
            )
        ra, dec = self.center
        if not (0 <= ra < 360 and -90 < dec < 90):
            raise ValueError(
                f"center must be a right ascension in [0, 360) and a declination between -90 and "
                f"90 degrees; found {self.center}"
            )
        half = 0.5 * math.sqrt(self.area_deg2)
        if abs(dec) + half >= 90 or self.width_deg > 360:
            raise ValueError(
                f"a patch of {self.area_deg2:g} square degrees around declination {dec:g} reaches "
                f"a pole or around the sky. Take a smaller area_deg2 or another center"
            )

    @property
    def width_deg(self) -> float:
        """Right ascension from one side of the patch to the other, in degrees."""
        low, high = self.dec_range
        rise = math.sin(math.radians(high)) - math.sin(math.radians(low))
        return self.area_deg2 / math.degrees(rise)

    @property
    def dec_range(self) -> tuple[float, float]:
        """Lowest and highest declination of the patch, in degrees."""
        half = 0.5 * math.sqrt(self.area_deg2)
        return self.center[1] - half, self.center[1] + half
