"""What is true of each object of the mock universe: the columns, and a table of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import overload

import numpy as np

__all__ = ["COLUMNS", "GALAXY", "QUASAR", "STAR", "Column", "Truth"]

GALAXY, STAR, QUASAR = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Column:
    """Declare one column of the truth table.

    Parameters
    ----------
    name : str
        Name.
    dtype : str
        NumPy type. Floats are NaN, integers -1 and booleans False where they do not apply.
    unit : str
        Unit as `astropy.units` writes it; empty for none.
    kinds : tuple of int
        Kinds of objects it applies to.
    description : str
        One line for people.
    """

    name: str
    dtype: str
    unit: str
    kinds: tuple[int, ...]
    description: str


_ALL, _G, _S, _Q = (GALAXY, STAR, QUASAR), (GALAXY,), (STAR,), (QUASAR,)
_GQ = (GALAXY, QUASAR)


def _columns(kinds: tuple[int, ...], text: str) -> list[Column]:
    """Read lines of ``name | dtype | unit | description``."""
    found = []
    for line in text.strip().splitlines():
        name, dtype, unit, description = (part.strip() for part in line.split("|"))
        found.append(
            Column(name=name, dtype=dtype, unit=unit, kinds=kinds, description=description)
        )
    return found


COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        *_columns(
            _ALL,
            """
            object_id | i8 | | number of the object, from 0
            kind | i1 | | 0 galaxy, 1 star, 2 quasar
            ra | f8 | deg | true ICRS right ascension at epoch 2016.0
            dec | f8 | deg | true ICRS declination at epoch 2016.0
            redshift | f8 | | observed redshift with peculiar velocity; of stars rv / c
            ebv | f8 | mag | true Galactic reddening E(B-V)
            in_legacysurvey | ? | | in the Legacy-Survey-like footprint and detected
            in_hsc | ? | | in the HSC-like footprint and detected
            in_desi | ? | | has a DESI-like spectrum
            in_sdss | ? | | has an SDSS-like spectrum
            in_gaia | ? | | in the Gaia-like catalogue
            has_xp | ? | | has Gaia-like XP coefficients
            """,
        ),
        *_columns(
            _GQ,
            """
            luminosity_distance | f8 | Mpc | of the cosmological redshift
            """,
        ),
        *_columns(
            _G,
            """
            sample | i1 | | 0 flux-limited, 1 bright, 2 luminous red, 3 emission-line, 4 lens
            quiescent | ? | | drawn from the quiescent population
            log_mass | f8 | dex(solMass) | stellar mass now living
            log_sfr | f8 | dex(solMass / yr) | star formation rate, mean of the last 100 Myr
            log_ssfr | f8 | dex(1 / yr) | log_sfr - log_mass
            sfr_10 | f8 | solMass / yr | star formation rate, mean of the last 10 Myr (lines)
            age | f8 | Gyr | mass-weighted age
            sfh_start | f8 | Gyr | look-back time at which star formation began
            sfh_tau | f8 | Gyr | time scale of t exp(-t / tau); negative is rising
            burst_fraction | f8 | | mass formed in a recent burst
            burst_age | f8 | Gyr | age of the burst
            log_z_star | f8 | dex | stellar metallicity log10(Z / Zsun), disk
            log_z_bulge | f8 | dex | stellar metallicity log10(Z / Zsun), bulge
            oh | f8 | dex | gas 12 + log10(O / H)
            no_offset | f8 | dex | offset of log10(N / O) from the mean relation
            log_u | f8 | dex | ionisation parameter
            a_v | f8 | mag | attenuation of the old stars, inclination included
            a_v_young | f8 | mag | additional attenuation of young stars and lines
            dust_slope | f8 | | power-law deviation of the attenuation curve
            log_sigma_star | f8 | dex(km / s) | stellar velocity dispersion
            log_sigma_gas | f8 | dex(km / s) | line width of the gas
            agn | i1 | | 0 none, 1 LINER, 2 Seyfert 2, 3 Seyfert 1 (broad lines)
            log_l_agn | f8 | dex(erg / s) | [OIII]5007 luminosity of the active nucleus
            bulge_fraction | f8 | | bulge share of the stellar mass
            re_bulge | f8 | arcsec | half-light radius of the bulge, major axis
            n_bulge | f8 | | Sérsic index of the bulge
            q_bulge | f8 | | axis ratio of the bulge
            re_disk | f8 | arcsec | half-light radius of the disk seen face-on, major axis
            q_disk | f8 | | axis ratio of the disk as projected
            inclination | f8 | deg | 0 is face-on
            pa | f8 | deg | position angle, north through east
            morphology | i1 | | 0 elliptical, 1 disk, 2 irregular, 3 merger
            n_arms | i1 | | spiral arms, 0 for none
            arm_pitch | f8 | deg | pitch angle
            arm_contrast | f8 | | amplitude of the arms, 0 to 1
            arm_phase | f8 | deg | phase of the arms
            winding | i1 | | +1 arms trail counter-clockwise (Z), -1 clockwise (S)
            flocculence | f8 | | share of arm light in random knots, 0 to 1
            bar_length | f8 | arcsec | half-length of the bar, 0 for none
            bar_strength | f8 | | bar share of the disk's light
            bar_angle | f8 | deg | angle of the bar from the major axis in the plane of the disk
            ring_radius | f8 | arcsec | radius of a ring in the plane, 0 for none
            ring_strength | f8 | | ring share of the disk's light
            dust_lane | f8 | | optical depth of the edge-on dust lane in V, 0 for none
            clumpiness | f8 | | share of light of an irregular in clumps
            merger_ratio | f8 | | mass of the companion over that of the galaxy, 0 for none
            merger_separation | f8 | arcsec | projected separation of the companion
            merger_angle | f8 | deg | position angle of the companion
            tail_strength | f8 | | share of light in tidal tails or shells
            lens_theta_e | f8 | arcsec | Einstein radius, 0 for none
            lens_q | f8 | | axis ratio of the lensing mass
            lens_pa | f8 | deg | position angle of the lensing mass
            lens_shear | f8 | | external shear
            lens_shear_pa | f8 | deg | position angle of the external shear
            source_redshift | f8 | | redshift of the lensed source
            source_x | f8 | arcsec | position of the source, east positive, from the lens
            source_y | f8 | arcsec | position of the source, north positive
            source_re | f8 | arcsec | half-light radius of the source (exponential)
            source_q | f8 | | axis ratio of the source
            source_pa | f8 | deg | position angle of the source
            source_flux_r | f8 | nmgy | unlensed r flux of the source
            morph_true | i1 | | Galaxy10 class from the parameters above
            morph_visible | i1 | | Galaxy10 class that Legacy-Survey-like images can show
            """,
        ),
        *_columns(
            _S,
            """
            component | i1 | | 0 thin disk, 1 thick disk, 2 halo
            stage | i1 | | 0 dwarf, 1 subgiant, 2 giant, 3 horizontal branch, 4 white dwarf
            teff | f8 | K | effective temperature
            logg | f8 | dex(cm / s2) | surface gravity
            feh | f8 | dex | [Fe/H]
            initial_mass | f8 | solMass | initial mass
            star_age | f8 | Gyr | age
            distance | f8 | pc | distance
            log_luminosity | f8 | dex(solLum) | bolometric luminosity
            a_v_star | f8 | mag | extinction in front of the star, 3.1 times its share of E(B-V)
            rv | f8 | km / s | heliocentric radial velocity
            pm_ra | f8 | mas / yr | proper motion in right ascension, cos(dec) included
            pm_dec | f8 | mas / yr | proper motion in declination
            parallax | f8 | mas | true parallax
            binary | ? | | has an unresolved companion
            teff_2 | f8 | K | effective temperature of the companion
            logg_2 | f8 | dex(cm / s2) | surface gravity of the companion
            log_luminosity_2 | f8 | dex(solLum) | bolometric luminosity of the companion
            """,
        ),
        *_columns(
            _Q,
            """
            m_i | f8 | mag | absolute i magnitude at z = 0, AB
            slope_offset | f8 | | deviation of the continuum's power-law slope
            template | i4 | | number of the real coefficient vector the spectrum starts from
            """,
        ),
    )
}


class Truth(Mapping[str, np.ndarray]):
    """Hold truth columns of some objects; a read-only mapping from column name to array.

    Indexing with a name gives the column; with integers, a slice or a boolean array the same
    columns of these objects.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,)
        `object_id` and `kind`, and any other columns of `COLUMNS`; those left out are filled with
        "does not apply".

    Raises
    ------
    ValueError
        If a column is unknown, or the lengths disagree.
    """

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        unknown = sorted(set(columns) - set(COLUMNS))
        if unknown or not {"object_id", "kind"} <= set(columns):
            raise ValueError(
                "truth needs object_id and kind and no unknown columns; unknown: "
                f"{', '.join(unknown) or 'none'}"
            )
        n = len(columns["object_id"])
        self._columns: dict[str, np.ndarray] = {}
        for name, declared in COLUMNS.items():
            dtype = np.dtype(declared.dtype)
            if name in columns:
                values = np.asarray(columns[name]).astype(dtype)
            else:
                values = np.full(n, {"f": np.nan, "i": -1, "b": False}[dtype.kind], dtype=dtype)
            if values.shape != (n,):
                raise ValueError(f"truth column {name!r} has shape {values.shape}, not ({n},)")
            values.setflags(write=False)
            self._columns[name] = values

    def __len__(self) -> int:
        return len(self._columns["object_id"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...

    @overload
    def __getitem__(self, key: slice | np.ndarray | list[int]) -> Truth: ...

    def __getitem__(self, key):
        if isinstance(key, str):
            return self._columns[key]
        # Not through __init__: its checks hold for any part, and take longer than a spectrum.
        part = object.__new__(Truth)
        part._columns = {name: values[key] for name, values in self._columns.items()}
        if part._columns["object_id"].ndim != 1:
            part._columns = {name: values.reshape(-1) for name, values in part._columns.items()}
        for values in part._columns.values():
            values.flags.writeable = False
        return part
