"""Stellar library, colours and isochrones of the mock universe, from the wheel of fastar-astro."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_FASTAR = "fastar-astro 0.1.2 (wheel): fastar/assets/"
_MIT = "MIT, Copyright (c) 2026 Ignacio Martin Navarro"
PROVENANCE = {
    "table": "stars.npz",
    "origin": f"{_FASTAR}pca_regressor_*.flax, training_artifacts_*.h5, WORTHEY11_colors.hdf5",
    "licence": _MIT,
    "citation": "FASTAR (Martin-Navarro); MILES, Sanchez-Blazquez et al. 2006, MNRAS 371, 703; "
    "BOSZ, Meszaros et al. 2024, A&A 688, A197; colours, Worthey & Lee 2011, ApJS 193, 1; locus "
    "of M dwarfs, Covey et al. 2007, AJ 134, 2398",
    "changed": "weights in float32; spectral components in vacuum on a common grid; colours "
    "thinned in temperature; a tilt below 5600 A for cool dwarfs added",
}
ISOCHRONES = {
    "table": "isochrones.npz",
    "origin": f"{_FASTAR}BASTI-IAC_isochrones.hdf5",
    "licence": _MIT,
    "citation": "FASTAR (Martin-Navarro); BaSTI-IAC, Hidalgo et al. 2018, ApJ 856, 125",
    "changed": "130 of 2100 rows, 40 ages, 12 metallicities; 16-bit integers",
}

# Compact rest-frame vacuum grid (Angstrom) on which the library and the populations are stored.
MILES = np.arange(3542.0, 7408.0, 1.0)
BLUE = np.arange(2002.0, 3542.0, 4.0)
RED = np.arange(7410.0, 11500.0, 4.0)
BOSZ = np.r_[BLUE, np.arange(3542.0, 7410.0, 8.0), RED]
# Rows of the isochrones that are kept: dense where stars are many or move fast.
EEP = np.unique(
    np.r_[0:400:12, 400:1290:18, 1290, 1291:1400:12, 1400:2099:21, 2099],
)
AGES_GYR = np.round(np.geomspace(0.02, 14.0, 40), 5)
METALS = np.array([-2.5, -2.2, -1.9, -1.55, -1.2, -0.9, -0.6, -0.4, -0.2, 0.06, 0.15, 0.3])


def unpack(data: bytes):
    """Decode the part of MessagePack that flax writes (arrays are its extension type 1)."""
    position = 0

    def take(n: int) -> bytes:
        nonlocal position
        position += n
        return data[position - n : position]

    def number(n: int) -> int:
        return int.from_bytes(take(n), "big")

    def read():
        tag = number(1)
        if tag < 0x80:
            return tag
        if tag < 0x90:
            return {read(): read() for _ in range(tag & 15)}
        if tag < 0xA0:
            return [read() for _ in range(tag & 15)]
        if tag < 0xC0:
            return take(tag & 31).decode()
        if tag in (0xC4, 0xC5, 0xC6):
            return take(number(1 << (tag - 0xC4)))
        if tag in (0xC7, 0xC8, 0xC9):
            length = number(1 << (tag - 0xC7))
            number(1)
            shape, name, raw = unpack(take(length))
            return np.frombuffer(raw, name).reshape(shape)
        if tag in (0xCC, 0xCD, 0xCE, 0xCF):
            return number(1 << (tag - 0xCC))
        if tag in (0xD9, 0xDA):
            return take(number(1 << (tag - 0xD9))).decode()
        raise ValueError(f"MessagePack tag {tag:#x} is not understood")

    return read()


def vacuum(air: np.ndarray) -> np.ndarray:
    """Return vacuum wavelengths of air wavelengths above 2000 A (Ciddor 1996, inverted by VALD)."""
    s2 = (1e4 / air) ** 2
    n = 1 + 8.336624212083e-5 + 2.408926869968e-2 / (130.1065924522 - s2)
    return air * (n + 1.599740894897e-4 / (38.92568793293 - s2))


def emulator(folder: Path, label: str) -> dict[str, np.ndarray]:
    """Return weights, scalers and the spectral basis on the compact grid of one emulator."""
    import h5py
    from scipy.interpolate import CubicSpline

    layers = unpack((folder / f"pca_regressor_{label}.flax").read_bytes())["params"]
    found = {}
    for i in range(5):
        found[f"kernel_{i}"] = layers[f"Dense_{i}"]["kernel"].astype(np.float32)
        found[f"bias_{i}"] = layers[f"Dense_{i}"]["bias"].astype(np.float32)
    with h5py.File(folder / f"training_artifacts_{label}.h5") as file:
        for short, name in (("x", "X"), ("y", "Y")):
            found[f"{short}_mean"] = file[f"scaler_{name}/mean_"][:]
            found[f"{short}_scale_"] = file[f"scaler_{name}/scale_"][:]
        rows = np.vstack(
            [file["mean_spectrum"][:] + file["pca/mean_"][:], file["pca/components_"][:]]
        )
        wave = vacuum(file["wave"][:].astype(float))
    grid = MILES if label == "spec" else BOSZ
    found["basis"] = CubicSpline(wave, rows, axis=1)(grid).astype(np.float32)
    return found


def stars(folder: Path) -> dict[str, np.ndarray]:
    """Return the stellar library: two emulators and the colours of Worthey & Lee (2011)."""
    import h5py

    table = {f"miles_{k}": v for k, v in emulator(folder, "spec").items()}
    table |= {f"bosz_{k}": v for k, v in emulator(folder, "phot").items()}
    table["wavelength_miles"] = MILES.astype(np.float32)
    table["wavelength_bosz"] = BOSZ.astype(np.float32)
    with h5py.File(folder / "WORTHEY11_colors.hdf5") as file:
        log_t = file["uteff"][:].astype(float)
        keep = np.r_[np.arange(3.36, 3.7, 0.01), np.arange(3.7, 4.721, 0.03)]
        position = np.interp(keep, log_t, np.arange(len(log_t)))
        low = np.minimum(position.astype(int), len(log_t) - 2)
        high = (position - low)[None, :, None]
        for key in ("bcv", "vk", "jk", "hk"):
            cube = file[key][:].astype(float)
            value = cube[:, low] * (1 - high) + cube[:, low + 1] * high
            table[f"colour_{key}"] = value.astype(np.float32)
        table["colour_log_t"] = keep
        table["colour_logg"] = file["ulogg"][:].astype(float)
        table["colour_feh"] = file["ufmet"][:].astype(float)
    return table | {"tilt_teff": np.array([2000.0, 4500.0]), "tilt": np.zeros(2)}


# The locus of dwarfs: r - i and g - r of the SDSS (Covey et al. 2007, table 3, M dwarfs).
_R_I = np.array([0.30, 0.45, 0.62, 0.90, 1.20, 1.50, 1.80, 2.10, 2.60])
_G_R = np.array([0.95, 1.20, 1.36, 1.42, 1.45, 1.49, 1.53, 1.60, 1.70])


def tilts() -> dict[str, np.ndarray]:
    """Return the tilt below 5600 A that puts cool dwarfs of the library on the observed locus.

    Needs the other star tables, and isochrones, in place with tilts of zero.
    """
    from omnisky.mock.sed.bands import BANDS, CANVAS, OFFSET, band_matrix
    from omnisky.mock.sed.isochrones import draw_star_parameters
    from omnisky.mock.sed.stars import library

    mass = np.array([0.1, 0.11, 0.12, 0.135, 0.15, 0.17, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7])
    teff, logg, _, _ = draw_star_parameters(mass, np.full(14, 4.0), np.zeros(14))
    light = library("coarse").spectra(teff, logg, np.zeros(14), slice(OFFSET, OFFSET + len(CANVAS)))
    wave = np.minimum(np.log(CANVAS.wavelength / 5600.0), 0.0)
    g, r, i = (band_matrix()[:, BANDS.index(f"sdss_{b}")] for b in "gri")
    tilt = np.zeros(14)
    for _ in range(30):
        seen = light * np.exp(tilt[:, None] * wave)
        colour = -2.5 * np.log10((seen @ g) / (seen @ r))
        wanted = np.interp(-2.5 * np.log10((seen @ r) / (seen @ i)), _R_I, _G_R)
        # One magnitude of g - r is a tilt of some five.
        tilt += 4.0 * (wanted - colour)
    tilt[-1] = 0.0
    return {"tilt_teff": np.append(teff, 4500.0), "tilt": np.append(tilt, 0.0)}


def read_isochrones(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ages (Gyr), [Fe/H] and (quantity, row, age, [Fe/H]): mass, log T, log g, log L, left.

    `left` is the mass that the star has at that age.
    """
    import h5py

    with h5py.File(folder / "BASTI-IAC_isochrones.hdf5") as file:
        ages = file["ages"][:].astype(float) / 1000
        metals = file["mets"][:].astype(float)
        names = ("mass_ini", "teff_out", "logg_out", "lumi_out", "mass_out")
        cube = np.stack([file[name][:].astype(np.float32) for name in names])
    return ages, np.round(metals, 2), cube


def at(ages: np.ndarray, cube: np.ndarray, age: float) -> np.ndarray:
    """Interpolate isochrones in log age; (quantity, row, [Fe/H])."""
    position = np.interp(np.log(age), np.log(ages), np.arange(len(ages)))
    low = min(int(position), len(ages) - 2)
    part = position - low
    return cube[:, :, low] * (1 - part) + cube[:, :, low + 1] * part


def packed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int16 numbers and their scale along the last axis."""
    scale = np.maximum(np.abs(values).max(-1), 1e-30) / 32767
    return np.rint(values / scale[..., None]).astype(np.int16), scale


def isochrones(folder: Path) -> dict[str, np.ndarray]:
    """Return the thinned isochrones, (row, age, [Fe/H]) each; the mass in full precision."""
    ages, metals, cube = read_isochrones(folder)
    pick = [int(np.argmin(np.abs(metals - m))) for m in METALS]
    thin = np.stack([at(ages, cube[:, EEP][..., pick], age) for age in AGES_GYR], axis=2)
    table = {"age": AGES_GYR, "feh": metals[pick], "eep": EEP, "mass": thin[0].astype(np.float32)}
    for k, name in ((1, "log_t"), (2, "logg"), (3, "log_l")):
        table[name], table[f"{name}_scale"] = packed(thin[k])
    return table
