"""Compare the mock sky with the real one: counts, colours, sizes, clustering, separations.

    python dev/mock_closure.py --objects 6000 --out docs/explanation

writes two figures into `figures/` and the numbers, beside those of the literature, into
`mock-closure.json`. Where the real files are at hand (OMNISKY_REAL_DATA, the folder with
`sdss_colors_50k.parquet`), colours of SDSS galaxies and quasars are compared as well. The numbers
come from priors and noise models; nothing here was fitted to anybody's scores.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.mock.population import UniverseConfig, draw_with_fluxes
from omnisky.mock.population.catalogs import catalog
from omnisky.mock.population.galaxies.labels import GALAXY10
from omnisky.mock.population.galaxies.physics import MASS_SCALE
from omnisky.mock.population.galaxies.selection import surface_density
from omnisky.mock.population.membership import gaia_magnitude, magnitude
from omnisky.mock.population.quasars import quasar_density
from omnisky.mock.population.stars.draw import star_density
from omnisky.mock.sed import BANDS
from omnisky.mock.truth import Truth

# A wide patch has no large-scale structure to speak of; counts come from it.
WIDE: dict[str, Any] = dict(area_deg2=3000.0, center=(217.0, 0.0))
Sky = tuple[UniverseConfig, Truth, np.ndarray]
Closure = dict[str, dict[str, Any]]


def sky(objects: int, **changes: Any) -> Sky:
    """Return a configuration, its truth and the total fluxes."""
    config = UniverseConfig(seed=1, **changes)
    truth, fluxes = draw_with_fluxes(config, np.arange(objects))
    return config, truth, fluxes


def mag(fluxes: np.ndarray, band: str) -> np.ndarray:
    """Return AB magnitudes in one of the bands."""
    return magnitude(fluxes.sum(axis=1)[:, [str(b) for b in BANDS].index(band)])


def galaxies(objects: int) -> tuple[Sky, Closure]:
    """Measure counts, types, colours and how well photometry gives the specific rate away."""
    limits = dict(kinds=(1.0, 0.0, 0.0), samples=(1.0, 0.0, 0.0, 0.0, 0.0))
    whole = sky(objects, galaxy_limit=20.3, **limits, **WIDE)
    config, truth, fluxes = whole
    r = mag(fluxes, "decam_r")
    bright = r < 19.5
    expected = surface_density(config, 0)
    found: Closure = {
        "galaxies r < 19.5 per deg2": facts(expected * bright.mean(), 860, "DESI BGS Bright"),
        "galaxies r < 17.77 per deg2": facts(
            expected * (mag(fluxes, "sdss_r") < 17.77).mean(), 98, "SDSS main, completed"
        ),
        "median z, r < 19.5": facts(np.median(truth["redshift"][bright]), 0.20, "DESI BGS"),
        "red fraction, r < 19.5": facts(truth["quiescent"][bright].mean(), 0.40, "study"),
    }
    colour = mag(fluxes, "decam_g") - r
    for z, real in ((0.1, 0.96), (0.2, 1.20), (0.3, 1.46), (0.42, 1.54)):
        here = bright & truth["quiescent"] & (np.abs(truth["redshift"] - z) < 0.025)
        found[f"red sequence g - r at z = {z}"] = facts(np.median(colour[here]), real, "study")
    return whole, found


def facts(measured: float, real: float | None, source: str) -> dict[str, Any]:
    """Return one line of the closure."""
    known = None if real is None else round(real, 4)
    return {"mock": round(float(measured), 4), "literature": known, "source": source}


def predicted(objects: int) -> Closure:
    """Fit the specific star formation rate from noiseless griz, W1 and W2 of r < 19.5 galaxies."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    _, truth, fluxes = sky(
        objects, kinds=(1.0, 0.0, 0.0), samples=(1.0, 0.0, 0.0, 0.0, 0.0), **WIDE
    )
    bands = ("decam_g", "decam_r", "decam_i", "decam_z", "wise_w1", "wise_w2")
    x = np.stack([mag(fluxes, band) for band in bands], axis=1)
    x = np.concatenate([x[:, :-1] - x[:, 1:], x[:, 1:2]], axis=1)
    y, train = truth["log_ssfr"], np.arange(objects) < 0.75 * objects
    model = HistGradientBoostingRegressor(max_iter=400, learning_rate=0.05, random_state=0)
    residual = model.fit(x[train], y[train]).predict(x[~train]) - y[~train]
    score = 1 - np.mean(residual**2) / np.var(y[~train])
    return {"R2 of log sSFR from noiseless griz W1 W2": facts(score, 0.85, "at most; real 0.8")}


def stars(objects: int) -> tuple[Sky, Closure]:
    """Measure stars to G = 19 and count all kinds."""
    whole = sky(objects, kinds=(0.0, 1.0, 0.0), star_limit=19.0, white_dwarf_share=0.0)
    config, truth, fluxes = whole
    total = fluxes.sum(axis=1)
    bp, rp = (gaia_magnitude(total[:, list(BANDS).index(b)], b) for b in ("gaia_bp", "gaia_rp"))
    found: Closure = {
        f"stars BP - RP, {q} per cent": facts(np.percentile(bp - rp, q), real, "study, b = 50")
        for q, real in ((5, 0.62), (50, 0.96), (95, 2.2))
    }
    giants = np.isin(truth["stage"], (2, 3)).mean()
    found["share of giants, G < 19"] = facts(giants, 0.056, "study")
    halo = (truth["component"] == 2).mean()
    found["share of the halo, G < 19"] = facts(halo, 0.15, "study")
    found["stars G < 19 per deg2"] = facts(star_density(config), None, "")
    found["quasars i < 21.5 per deg2"] = facts(
        quasar_density(UniverseConfig(quasar_limit=21.5)), 60, "Palanque-Delabrouille et al. 2016"
    )
    return whole, found


def separations(objects: int) -> tuple[dict[str, np.ndarray], Closure]:
    """Measure how far apart surveys put the same object."""
    config, truth, fluxes = sky(objects)
    rows = {name: catalog(config, truth, name, fluxes) for name in ("legacysurvey", "hsc", "gaia")}
    rows["sdss"] = catalog(config, truth, "sdss", fluxes)
    place = {
        "legacysurvey": ("RA", "DEC"),
        "hsc": ("ra", "dec"),
        "gaia": ("ra", "dec"),
        "sdss": ("PLUG_RA", "PLUG_DEC"),
    }
    apart: dict[str, np.ndarray] = {}
    found: Closure = {}
    for other, real in (("gaia", 0.025), ("hsc", 0.03), ("sdss", 0.117)):
        both = truth["in_legacysurvey"] & truth[f"in_{other}"]
        if other == "gaia":  # the tractor takes bright positions from Gaia
            both &= rows["legacysurvey"]["REF_CAT"] == ""
        (ra, dec), (ra_2, dec_2) = (
            [rows[name][key][both] for key in place[name]] for name in ("legacysurvey", other)
        )
        east = (ra - ra_2 + 180) % 360 - 180
        name = f"LS - {other.upper()}"
        apart[name] = np.hypot(east * np.cos(np.radians(dec)), dec - dec_2) * 3600
        found[f"{name} separation, median arcsec"] = facts(np.median(apart[name]), real, "study")
    return apart, found


def clustering(objects: int, skies: int = 4) -> tuple[np.ndarray, np.ndarray, Closure]:
    """Measure w(theta) of flux-limited galaxies, the mean of some seeds (Landy & Szalay 1993)."""
    edges = np.geomspace(0.004, 0.7, 9)
    middle = np.sqrt(edges[1:] * edges[:-1])
    total = np.zeros(len(middle))
    for seed in range(skies):
        total += correlation(UniverseConfig(seed=seed), objects, edges) / skies
    at = np.interp(np.log(0.05), np.log(middle), total)
    return middle, total, {"w(0.05 deg), r < 19.5": facts(at, 0.02 * 0.05**-0.75, "Connolly+ 2002")}


def correlation(config: UniverseConfig, objects: int, edges: np.ndarray) -> np.ndarray:
    """Return w in bins of separation in degrees."""
    from scipy.spatial import cKDTree

    from omnisky.mock.population.draws import Draws
    from omnisky.mock.population.places import galaxy_places

    place = galaxy_places(config, Draws(config.seed, np.arange(objects)), np.zeros(objects, int))
    shrink = np.cos(np.radians(config.center[1]))
    x = (place["ra"] - config.center[0]) * shrink
    data = np.stack([x, place["dec"] - config.center[1]], axis=1)
    rng = np.random.default_rng(config.seed)
    size = np.array([config.width_deg * shrink, config.dec_range[1] - config.dec_range[0]])
    smooth = (rng.random((3 * objects, 2)) - 0.5) * size
    trees = cKDTree(data), cKDTree(smooth)

    def pairs(a: int, b: int) -> np.ndarray:
        count = np.diff(trees[a].count_neighbors(trees[b], edges)).astype(float)
        return count / trees[a].n / trees[b].n

    dd, dr, rr = pairs(0, 0), pairs(0, 1), pairs(1, 1)
    return (dd - 2 * dr + rr) / rr


def real_colours() -> dict[str, np.ndarray] | None:
    """Return SDSS magnitudes, classes and redshifts, or nothing where there is no file."""
    folder = Path(os.environ.get("OMNISKY_REAL_DATA", ""))
    path = folder / "sdss_colors_50k.parquet"
    if not path.is_file():
        return None
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def draw_galaxies(whole: Sky, path: Path) -> None:
    """Draw counts, colours and sizes of flux-limited galaxies."""
    import matplotlib.pyplot as plt

    _, truth, fluxes = whole
    r, z = mag(fluxes, "decam_r"), truth["redshift"]
    here = r < 19.5
    red = truth["quiescent"]
    figure, axes = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    figure.suptitle("mock universe: flux-limited galaxies, r < 19.5")
    axes[0, 0].hist(z[here], bins=40, color="0.6")
    axes[0, 0].set(xlabel="redshift", ylabel="galaxies")
    for ax, colour, label in (
        (axes[0, 1], mag(fluxes, "decam_g") - r, "g - r"),
        (axes[0, 2], r - mag(fluxes, "wise_w1"), "r - W1 (AB)"),
    ):
        for some, hue in ((here & ~red, "C0"), (here & red, "C3")):
            ax.plot(z[some], colour[some], ".", ms=2, color=hue, alpha=0.4)
        ax.set(xlabel="redshift", ylabel=label, xlim=(0, 0.5), ylim=(0, 2.2))
    axes[0, 1].plot([0.1, 0.2, 0.3, 0.42], [0.96, 1.20, 1.46, 1.54], "ks", label="red sequence")
    axes[0, 1].legend()
    _sizes(axes[1, 0], truth, here & (np.abs(z - 0.2) < 0.1))
    for some, hue in ((here & ~red, "C0"), (here & red, "C3")):
        mass = truth["log_mass"][some]
        axes[1, 1].plot(mass, truth["log_ssfr"][some], ".", ms=2, color=hue, alpha=0.4)
    axes[1, 1].set(xlabel="log mass", ylabel="log sSFR / yr", ylim=(-14, -8))
    share = [np.bincount(truth[f"morph_{k}"][here], minlength=10) for k in ("true", "visible")]
    for i, (counts, name) in enumerate(zip(share, ("true", "visible"), strict=True)):
        height = counts / counts.sum()
        axes[1, 2].barh(np.arange(10) + 0.4 * i - 0.2, height, 0.4, label=f"morph_{name}")
    axes[1, 2].set_yticks(range(10), GALAXY10)
    axes[1, 2].set(xlabel="share")
    axes[1, 2].legend()
    figure.savefig(path, dpi=70, metadata={"Title": "omnisky mock universe"})
    plt.close(figure)


def _sizes(ax: Any, truth: Truth, here: np.ndarray) -> None:
    from omnisky.mock.population.cosmology import kpc_per_arcsec

    single = truth["bulge_fraction"] >= 1
    size = np.where(single, truth["re_bulge"], truth["re_disk"])
    size = size * kpc_per_arcsec(truth["redshift"])
    mass = np.linspace(9, 11.7, 20)
    for some, hue, law in (
        (here & ~truth["quiescent"], "C0", (8.9, -0.75, 0.22)),
        (here & truth["quiescent"], "C3", (5.6, -1.48, 0.75)),
    ):
        ax.semilogy(truth["log_mass"][some], size[some], ".", ms=2, color=hue, alpha=0.4)
        line = law[0] * 1.2 ** law[1] * 10 ** (law[2] * (mass - MASS_SCALE - 10.699))
        ax.semilogy(mass, line, color=hue)
    ax.set(xlabel="log mass", ylabel="half-light radius of the disk or the elliptical, kpc")
    ax.set_title("lines: van der Wel et al. (2014), z = 0.2", fontsize=9)


def draw_sky(
    star: Sky, apart: dict[str, np.ndarray], web: tuple[np.ndarray, np.ndarray], path: Path
) -> None:
    """Draw stars, separations, clustering and, where there are real ones, colours of quasars."""
    import matplotlib.pyplot as plt

    _, truth, fluxes = star
    total = fluxes.sum(axis=1)
    g, bp, rp = (
        gaia_magnitude(total[:, list(BANDS).index(f"gaia_{b}")], f"gaia_{b}")
        for b in ("g", "bp", "rp")
    )
    figure, axes = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    figure.suptitle("mock universe: stars, surveys and clustering")
    hue = dict(s=2, c=truth["component"], cmap="viridis", alpha=0.6)
    axes[0, 0].scatter(bp - rp, g - 5 * np.log10(truth["distance"] / 10), **hue)
    axes[0, 0].set(xlabel="BP - RP", ylabel="M_G (with extinction)", ylim=(15, -5))
    axes[0, 1].scatter(truth["teff"], truth["logg"], **hue)
    axes[0, 1].set(xlabel="Teff, K", ylabel="log g", xlim=(12000, 2500), ylim=(6, 0))
    motion = np.hypot(truth["pm_ra"], truth["pm_dec"])
    axes[0, 2].hist(np.log10(motion), bins=40, color="0.6")
    axes[0, 2].set(xlabel="log proper motion, mas / yr", ylabel="stars")
    for name, values in apart.items():
        axes[1, 0].hist(
            values, bins=np.linspace(0, 0.5, 60), density=True, histtype="step", label=name
        )
    axes[1, 0].set(xlabel="separation, arcsec", yscale="log")
    axes[1, 0].legend()
    axes[1, 1].loglog(*web, "o-", label="mock, r < 19.5")
    axes[1, 1].loglog(web[0], 0.02 * web[0] ** -0.75, "k--", label="0.02 (theta / deg)^-0.75")
    axes[1, 1].set(xlabel="theta, deg", ylabel="w(theta)")
    axes[1, 1].legend()
    quasar_colours(axes[1, 2])
    figure.savefig(path, dpi=70, metadata={"Title": "omnisky mock universe"})
    plt.close(figure)


def quasar_colours(ax: Any) -> None:
    """Draw u - g and g - r of mock quasars against redshift, beside real ones."""
    _, truth, fluxes = sky(3000, kinds=(0.0, 0.0, 1.0), quasar_limit=20.5)
    bins = np.arange(0.3, 3.2, 0.2)
    real = real_colours()
    for i, (blue, green) in enumerate((("u", "g"), ("g", "r"))):
        colour = mag(fluxes, f"sdss_{blue}") - mag(fluxes, f"sdss_{green}")
        ax.plot(truth["redshift"], colour, ".", ms=2, alpha=0.3, color=f"C{i}")
        if real is not None:
            quasar = real["spec_class"] == "QSO"
            z, c = real["redshift"][quasar], (real[blue] - real[green])[quasar]
            middle = [np.median(c[np.abs(z - b) < 0.1]) for b in bins]
            ax.plot(bins, middle, "o-", color=f"C{i}", label=f"SDSS {blue} - {green}")
    ax.set(xlabel="redshift", ylabel="quasars: u - g, g - r", xlim=(0, 4), ylim=(-1, 3))
    if real is not None:
        ax.legend()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=Path("docs/explanation"))
    given = parser.parse_args()
    figures = given.out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    whole, closure = galaxies(given.objects)
    draw_galaxies(whole, figures / "mock-closure-galaxies.png")
    star, more = stars(given.objects)
    apart, third = separations(given.objects)
    middle, web, fourth = clustering(2 * given.objects)
    draw_sky(star, apart, (middle, web), figures / "mock-closure-sky.png")
    closure |= more | third | fourth | predicted(2 * given.objects)
    text = json.dumps({"mock": True, "objects": given.objects, "closure": closure}, indent=1)
    (given.out / "mock-closure.json").write_text(text + "\n")
    for name, line in closure.items():
        print(f"{name:46s} {line['mock']:10.3f}   {line['literature']}   {line['source']}")


if __name__ == "__main__":
    main()
