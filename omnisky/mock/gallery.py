"""Contact sheets of a mock universe: images, spectra, XP spectra and masks to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.mock.truth import GALAXY, QUASAR, STAR, Truth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from omnisky.mock.universe import Universe

__all__ = ["draw_gallery", "rgb"]

# What a band's flux in nmgy a pixel of 0.262 arcsec is divided by, before the stretch; values of
# the images of Galaxy Zoo DECaLS (Walmsley et al. 2022) for g, r and z.
_SCALES = {"g": 0.008, "r": 0.014, "i": 0.017, "z": 0.019}
_LOW, _HIGH = -0.5, 300.0
_COLUMNS = 8
_MOST = 48


def rgb(
    flux: np.ndarray, bands: Sequence[str], pixel_scale_arcsec: float, *, channels: str = "zrg"
) -> np.ndarray:
    """Return a colour image: asinh stretch (Lupton et al. 2004), white where colours are noise.

    Parameters
    ----------
    flux : array, shape (band, y, x)
        Flux a pixel, nmgy.
    bands : sequence of str
        Names of the bands.
    pixel_scale_arcsec : float
        Side of a pixel.
    channels : str
        Bands that are shown red, green and blue.

    Returns
    -------
    array of uint8, shape (y, x, 3)
        First row on top: north is up, east to the left.

    Raises
    ------
    ValueError
        If a channel is none of the bands, or has no scale.

    Notes
    -----
    As the images of Galaxy Zoo DECaLS were made (Walmsley et al. 2022): each band on its own
    through asinh, from -0.5 to 300 of its scale, then pixels that one band dominates are taken
    towards their mean.
    """
    if missing := [band for band in channels if band not in bands or band not in _SCALES]:
        raise ValueError(
            f"no channel {', '.join(missing)} in an image of {', '.join(bands)}; give bands of it "
            f"among {', '.join(_SCALES)}"
        )
    area = (0.262 / pixel_scale_arcsec) ** 2
    planes = np.stack([flux[list(bands).index(b)] * (area / _SCALES[b]) for b in channels])
    low, high = np.arcsinh(_LOW), np.arcsinh(_HIGH)
    seen = (np.arcsinh(planes) - low) / (high - low)
    mean = seen.mean(axis=0)
    share = seen / np.where(mean == 0, 1.0, mean)
    trust = np.sin(np.pi / 2 * (1 - np.minimum(share.max(axis=0) / 2.5, 1)))
    grey = mean * (1 - trust)
    mixed = seen * (trust + grey * (1 - trust)) + grey
    image = (np.clip(mixed, 0, 1) * 255).astype(np.uint8)
    return np.moveaxis(image, 0, -1)[::-1]


def draw_gallery(universe: Universe, folder: Path, *, most: int = _MOST) -> list[Path]:
    """Draw contact sheets of the first objects of a universe.

    Parameters
    ----------
    universe : Universe
        What to show.
    folder : path
        Where to write PNG files; it must exist.
    most : int
        Objects a sheet, at most.

    Returns
    -------
    list of Path
        Files written: those for which the universe has objects.
    """
    from omnisky.mock.population import draw_with_fluxes

    # Rare ones are looked for among more objects than are shown.
    truth, fluxes = draw_with_fluxes(universe.config, universe.numbers[: 20 * most])
    seed = universe.config.seed
    sheets: list[tuple[str, Callable[..., Figure | None]]] = [
        ("galaxies", _galaxies),
        ("stars-and-quasars", _points),
        ("masks", _masks),
        ("spectra", _spectra),
        ("xp", _xp),
    ]
    written = []
    for name, sheet in sheets:
        figure = sheet(universe, truth, fluxes, most)
        if figure is None:
            continue
        # A label of the whole figure: the layout leaves room for it.
        figure.supxlabel(f"mock: invented by omnisky, seed {seed}", size=9)
        path = Path(folder) / f"mock-{name}.png"
        figure.savefig(path, dpi=100, metadata={"Title": f"mock {name}", "Source": "omnisky mock"})
        written.append(path)
    return written


def _galaxies(universe: Any, truth: Truth, fluxes: np.ndarray, most: int) -> Figure | None:
    # The brightest first: their shapes can be seen.
    total = np.where(truth["kind"] == GALAXY, fluxes[:, :, 1].sum(axis=1), -1)
    order = np.argsort(-total)[: min(most, int((truth["kind"] == GALAXY).sum()))]
    return _images(universe, truth, fluxes, order, "galaxies")


def _points(universe: Any, truth: Truth, fluxes: np.ndarray, most: int) -> Figure | None:
    chosen = [np.flatnonzero(truth["kind"] == kind)[: most // 2] for kind in (STAR, QUASAR)]
    return _images(universe, truth, fluxes, np.concatenate(chosen), "stars and quasars")


def _images(
    universe: Any, truth: Truth, fluxes: np.ndarray, chosen: np.ndarray, title: str
) -> Figure | None:
    """Show objects in rows: the Legacy-Survey-like image, below it the HSC-like one."""
    from omnisky.mock.images import ImageModel

    if not len(chosen):
        return None
    tiles, labels = [], []
    models = {name: ImageModel(universe.config, name) for name in ("legacysurvey", "hsc")}
    for start in range(0, len(chosen), _COLUMNS):
        row = chosen[start : start + _COLUMNS]
        for name, model in models.items():
            channels = "zrg" if name == "legacysurvey" else "irg"
            instrument = model.instrument
            for i in row.tolist():
                seen = model.render(truth[i : i + 1], fluxes[i], size=universe.size, maps=False)
                scale = instrument.pixel_scale_arcsec
                tiles.append(rgb(seen.flux, instrument.bands, scale, channels=channels))
                labels.append(f"{int(truth['object_id'][i])} {name}")
            tiles += [None] * (_COLUMNS - len(row))
            labels += [""] * (_COLUMNS - len(row))
    return _grid(tiles, labels, f"mock {title}: Legacy-Survey-like above, HSC-like below")


def _masks(universe: Any, truth: Truth, fluxes: np.ndarray, most: int) -> Figure | None:
    """Show disks with arms or a bar: the image, its segmentation, arms and bar."""
    from omnisky.mock.images import ImageModel

    arms = (truth["n_arms"] > 0) | (truth["bar_length"] > 0)
    open_disks = (truth["kind"] == GALAXY) & arms & (truth["inclination"] < 65)
    size = np.where(open_disks, truth["re_disk"], -1)
    chosen = np.argsort(-size)[: min(max(most // 2, 1), int(open_disks.sum()))]
    if not len(chosen):
        return None
    model = ImageModel(universe.config, "legacysurvey")
    scale = model.instrument.pixel_scale_arcsec
    tiles, labels = [], []
    for i in chosen.tolist():
        seen = model.render(truth[i : i + 1], fluxes[i], size=universe.size)
        image = rgb(seen.flux, model.instrument.bands, scale)
        shown = [seen.segmentation, seen.arm_mask, seen.bar_mask]
        if any(plane is None for plane in shown):
            continue
        colours = np.stack([np.asarray(plane) > 0 for plane in shown], axis=-1)[::-1]
        tiles += [image, (colours * np.array([110, 255, 255])).astype(np.uint8)]
        labels += [str(int(truth["object_id"][i])), "sources, arms, bar"]
    return _grid(tiles, labels, "mock masks: sources red, arms green, bar blue")


def _grid(tiles: Sequence[np.ndarray | None], labels: Sequence[str], title: str) -> Figure:
    from matplotlib.figure import Figure

    rows = -(-len(tiles) // _COLUMNS)
    figure = Figure(figsize=(1.6 * _COLUMNS, 1.72 * rows + 0.6), layout="constrained")
    figure.suptitle(title)
    axes = np.atleast_2d(figure.subplots(rows, _COLUMNS)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, tile, label in zip(axes, tiles, labels, strict=False):
        if tile is not None:
            axis.imshow(tile, interpolation="nearest")
            axis.set_title(label, size=6, pad=1)
    return figure


def _spectra(universe: Any, truth: Truth, fluxes: np.ndarray, most: int) -> Figure | None:
    """Show DESI-like spectra, and SDSS-like ones of the same objects where there are."""
    from omnisky.mock.spectra import DesiModel, SdssModel

    chosen = _spread(truth, truth["in_desi"], min(most, 24))
    if not len(chosen):
        return None
    desi, sdss = DesiModel(universe.config), SdssModel(universe.config)
    panels = []
    for i in chosen.tolist():
        row = truth[i : i + 1]
        lines = []
        for arm in desi.observe(row, fluxes[i]).arms.values():
            lines.append((arm.wavelength, np.where(arm.mask == 0, arm.flux, np.nan), "0.2"))
        if truth["in_sdss"][i]:
            other = sdss.observe(row, fluxes[i])
            shown = np.where(other.ivar > 0, other.flux, np.nan)
            lines.append((10**other.loglam, shown, "tab:orange"))
        panels.append((_label(truth, i), lines))
    return _panels(panels, "mock spectra: DESI-like black, SDSS-like orange; Å, 1e-17 erg/s/cm²/Å")


def _xp(universe: Any, truth: Truth, fluxes: np.ndarray, most: int) -> Figure | None:
    """Show XP coefficients, which are what a Gaia-like archive has, over their errors."""
    from omnisky.mock.spectra import XpModel

    chosen = _spread(truth, truth["has_xp"], min(most, 24))
    if not len(chosen):
        return None
    model, panels = XpModel(universe.config), []
    for i in chosen.tolist():
        seen = model.observe(truth[i : i + 1])
        number = np.arange(len(seen.bp.value))
        lines = [
            (number, np.arcsinh(arm.value / arm.error), colour)
            for arm, colour in ((seen.bp, "tab:blue"), (seen.rp, "tab:red"))
        ]
        panels.append((_label(truth, i), lines))
    return _panels(panels, "mock XP: asinh(coefficient / error), BP blue, RP red")


def _spread(truth: Truth, which: np.ndarray, most: int) -> np.ndarray:
    """Choose objects of all kinds in turn."""
    places = [np.flatnonzero(which & (truth["kind"] == kind)) for kind in (GALAXY, STAR, QUASAR)]
    shares = [places[0][: most // 2], places[1][: most // 4], places[2][: most // 4]]
    return np.concatenate(shares)


def _label(truth: Truth, i: int) -> str:
    kind = ("galaxy", "star", "quasar")[int(truth["kind"][i])]
    facts = f"z = {truth['redshift'][i]:.3f}" if kind != "star" else f"{truth['teff'][i]:.0f} K"
    return f"{int(truth['object_id'][i])} {kind}, {facts}"


def _panels(panels: Sequence[tuple[str, list[tuple[np.ndarray, np.ndarray, str]]]], title: str):
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(13, 1.6 * rows + 0.7), layout="constrained")
    figure.suptitle(title)
    axes = np.atleast_2d(figure.subplots(rows, 3)).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (label, lines) in zip(axes, panels, strict=False):
        for x, y, colour in lines:
            axis.plot(x, y, color=colour, lw=0.5)
        shown = np.concatenate([y[np.isfinite(y)] for _, y, _ in lines])
        low, high = np.percentile(shown, [0.5, 99.5]) if shown.size else (0.0, 1.0)
        room = 0.1 * (high - low) + 1e-9
        axis.set_ylim(low - room, high + room)
        axis.set_title(label, size=7, pad=2)
        axis.tick_params(labelsize=6)
    return figure
