"""Images of mock objects: right to the flux, the same whatever the batch, flaws flagged."""

import dataclasses

import numpy as np
import pytest

from omnisky.mock.images import INSTRUMENTS, NO_ARTEFACTS, Artefacts, ImageModel
from omnisky.mock.images.instruments import conditions_at
from omnisky.mock.images.light import Grid, Lens, Sersic, Shape, draw_galaxy, draw_source
from omnisky.mock.images.neighbours import around
from omnisky.mock.images.noise import bit_generator, correlated_normals
from omnisky.mock.images.psf import Psf, see
from omnisky.mock.sed import SedModel
from omnisky.mock.truth import GALAXY, STAR, Truth


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 5


def galaxy(number=0, **more):
    columns = dict(
        object_id=number,
        kind=GALAXY,
        ra=217.0 + 0.3 * number,
        dec=1.0,
        morphology=1,
        re_bulge=0.8,
        n_bulge=3.0,
        q_bulge=0.9,
        re_disk=3.0,
        q_disk=0.7,
        inclination=45.0,
        pa=30.0,
        n_arms=2,
        arm_pitch=20.0,
        arm_contrast=0.6,
        arm_phase=10.0,
        winding=1,
        flocculence=0.3,
        bar_length=1.5,
        bar_strength=0.2,
        bar_angle=40.0,
        ring_radius=0.0,
        a_v=0.4,
        ebv=0.02,
        lens_theta_e=0.0,
    )
    return Truth({name: np.array([value]) for name, value in (columns | more).items()})


def star(number=0):
    return Truth({"object_id": [number], "kind": [STAR], "ra": [217.0], "dec": [1.0]})


def fluxes(*components):
    return np.repeat(np.array(components, dtype=float)[:, None], 24, axis=1)


DISK = fluxes(10.0, 25.0, 15.0)
POINT = fluxes(20.0, 0.0, 0.0)
BOTH = pytest.mark.parametrize("instrument", sorted(INSTRUMENTS))


def plain(instrument="legacysurvey"):
    return ImageModel(Config(), instrument, artefacts=NO_ARTEFACTS)


def seen(profile, psf, scale, size=192, at=(96.3, 95.6)):
    grid = Grid(size=size, scale=scale, x=at[0], y=at[1])
    split = profile.split(grid)
    planes = None if split is None else profile.pixels(grid, split)[None]
    parts = [profile.transform(grid, split)]
    return see([psf], grid, planes=planes, fluxes=np.ones((1, 1)), smooth=parts)[0]


# --- profiles and PSF ------------------------------------------------------------------------


def test_gaussian_has_its_closed_form():
    # A Sérsic profile of n = 1/2 is a Gaussian, half of whose light is within 1.1774 sigma.
    scale, re = 0.262, 1.5
    # A Moffat function of a large exponent is nearly a Gaussian.
    found = seen(Sersic(re=re, n=0.5), Psf(2.5 * scale, 60.0), scale)
    sigma = re / np.sqrt(2 * np.log(2)) / scale
    y, x = np.indices(found.shape)
    r2 = (x - 96.3) ** 2 + (y - 95.6) ** 2
    # Averaged over a pixel, which widens it by 1/12 of a square pixel.
    wide = sigma**2 + 1 / 12 + (2.5 / 2.3548) ** 2
    expected = np.exp(-r2 / (2 * wide)) / (2 * np.pi * wide)
    assert np.abs(found - expected).max() < 0.01 * expected.max()


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0, 6.0])
@pytest.mark.parametrize("re", [0.3, 1.0, 3.0])
def test_half_the_light_is_within_the_effective_radius(n, re):
    scale = 0.05 * re
    found = seen(Sersic(re=re, n=n), Psf(0.1 * re, 6.0), scale, size=432, at=(216.0, 216.0))
    y, x = np.indices(found.shape) - 216
    assert found[np.hypot(x, y) * scale < re].sum() == pytest.approx(0.5, abs=0.012)


def test_profiles_are_turned_north_through_east():
    image = seen(Sersic(re=3.0, n=1.0, q=0.3, pa_deg=30.0), Psf(0.8), 0.262, at=(96.0, 96.0))
    y, x = np.indices(image.shape) - 96
    # East is to the left: an angle of 30 degrees is up and to the left.
    tilt = 0.5 * np.degrees(
        np.arctan2(2 * (image * x * y).sum(), (image * x * x).sum() - (image * y * y).sum())
    )
    assert tilt % 180 == pytest.approx(120, abs=1)


REFERENCE = [
    # Sérsic index, radius, axis ratio, FWHM, scale; then the middle, and brightness 2 and 8 pixels
    # above it, of flux one, from GalSim 2.8.5 by `galsim_image` below.
    (0.5, 0.3, 0.6, 1.2, 0.262, 2.69040e-02, 1.76955e-02, 4.57600e-04),
    (0.5, 2.0, 0.4, 0.6, 0.168, 3.35502e-03, 3.20846e-03, 1.64716e-03),
    (1.0, 0.3, 0.6, 1.2, 0.262, 2.58751e-02, 1.72201e-02, 4.89898e-04),
    (1.0, 2.0, 0.4, 0.6, 0.168, 4.42494e-03, 3.93601e-03, 1.35602e-03),
    (2.5, 0.3, 0.6, 1.2, 0.262, 2.37380e-02, 1.58705e-02, 6.36828e-04),
    (2.5, 2.0, 0.4, 0.6, 0.168, 7.09993e-03, 5.40878e-03, 9.91662e-04),
    (4.0, 0.3, 0.6, 1.2, 0.262, 2.25000e-02, 1.49530e-02, 7.08359e-04),
    (4.0, 2.0, 0.4, 0.6, 0.168, 8.99471e-03, 6.26725e-03, 8.31402e-04),
    (6.0, 0.3, 0.6, 1.2, 0.262, 2.14802e-02, 1.41531e-02, 7.25166e-04),
    (6.0, 2.0, 0.4, 0.6, 0.168, 1.08029e-02, 6.99231e-03, 7.10829e-04),
]


@pytest.mark.parametrize(("n", "re", "q", "fwhm", "scale", "peak", "near", "far"), REFERENCE)
def test_stored_values_of_galsim(n, re, q, fwhm, scale, peak, near, far):
    profile = Sersic(re=re, n=n, q=q, pa_deg=35.0)
    image = seen(profile, Psf(fwhm, 3.2), scale, at=(96.0, 96.0))
    assert image[96, 96] == pytest.approx(peak, rel=0.015)
    assert image[98, 96] == pytest.approx(near, abs=0.015 * peak)
    assert image[104, 96] == pytest.approx(far, abs=0.015 * peak)


def galsim_image(galsim, n, re, q, fwhm, scale, shift=(0.0, 0.0)):
    params = galsim.GSParams(
        maximum_fft_size=32768, folding_threshold=5e-4, maxk_threshold=1e-4, kvalue_accuracy=1e-6
    )
    source = galsim.Sersic(n=n, half_light_radius=re * np.sqrt(q))
    source = source.shear(q=q, beta=(90 + 35) * galsim.degrees)
    both = galsim.Convolve(source, galsim.Moffat(beta=3.2, fwhm=fwhm), gsparams=params)
    moved = both.shift(shift[0] * scale, shift[1] * scale)
    return moved.drawImage(nx=161, ny=161, scale=scale).array


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("re", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(("fwhm", "scale"), [(1.2, 0.262), (0.6, 0.168)])
def test_images_agree_with_galsim(n, re, fwhm, scale):
    galsim = pytest.importorskip("galsim")
    for q, shift in ((1.0, (0.0, 0.0)), (0.6, (0.3, -0.4)), (0.3, (-0.49, 0.2))):
        expected = galsim_image(galsim, n, re, q, fwhm, scale, shift)
        profile = Sersic(re=re, n=n, q=q, pa_deg=35.0)
        image = seen(profile, Psf(fwhm, 3.2), scale, at=(96 + shift[0], 96 + shift[1]))
        image = image[16:177, 16:177]
        assert np.abs(image - expected).max() < 0.015 * expected.max()
        assert image.sum() == pytest.approx(expected.sum(), rel=0.005)


# --- lenses ----------------------------------------------------------------------------------


def test_circular_lens_deflects_by_the_einstein_radius():
    lens = Lens(theta_e=1.3, q=0.9999)
    east, north = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, -3.0])
    alpha = np.hypot(*lens.deflection(east, north))
    assert alpha == pytest.approx(1.3, rel=1e-3)


def test_deflection_agrees_with_lenstronomy():
    pytest.importorskip("lenstronomy")
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity, shear_polar2cartesian

    east, north = np.random.default_rng(0).uniform(-3, 3, (2, 200))
    for theta_e, q, pa, shear, shear_pa in ((1.2, 0.7, 30, 0.05, 80), (0.8, 0.5, -20, 0.1, 10)):
        e1, e2 = phi_q2_ellipticity(np.radians(90 - pa), q)
        g1, g2 = shear_polar2cartesian(np.radians(90 - shear_pa), shear)
        mass = {"theta_E": theta_e, "e1": e1, "e2": e2, "center_x": 0, "center_y": 0}
        both = [mass, {"gamma1": g1, "gamma2": g2}]
        expected = LensModel(["SIE", "SHEAR"]).alpha(east, north, both)
        lens = Lens(theta_e=theta_e, q=q, pa_deg=pa, shear=shear, shear_pa_deg=shear_pa)
        assert np.allclose(lens.deflection(east, north), expected, atol=1e-6)


def test_source_far_from_its_lens_keeps_its_flux():
    truth = galaxy(
        lens_theta_e=0.05, source_x=-4.0, source_y=3.0, source_re=0.5, source_q=0.8, source_pa=20.0
    )
    image = draw_source(truth, Grid(size=96, scale=0.262, x=48.0, y=48.0))
    # Magnification of an isothermal lens: 1 / (1 - theta_E / theta).
    assert image.sum() == pytest.approx(1 / (1 - 0.05 / 5.0), rel=0.01)
    y, x = np.unravel_index(image.argmax(), image.shape)
    assert (48 - x) * 0.262 == pytest.approx(-4.0, abs=0.2)
    assert (y - 48) * 0.262 == pytest.approx(3.0, abs=0.2)


def test_lens_adds_the_light_of_its_source():
    lensed = dict(lens_theta_e=1.2, lens_q=0.8, source_x=0.1, source_y=0.05, source_re=0.3)
    lensed |= dict(source_flux_r=2.0, source_q=0.9, source_pa=0.0, morphology=0, n_arms=0)
    lensed |= dict(source_redshift=1.5)
    truth = galaxy(**lensed)
    with_arcs = plain("hsc").render(truth, DISK, noise=False, neighbours=False).flux
    without = (
        plain("hsc")
        .render(galaxy(morphology=0, n_arms=0), DISK, noise=False, neighbours=False)
        .flux
    )
    magnified = (with_arcs - without).sum(axis=(1, 2))
    assert 2.0 * 3 < magnified[1] < 2.0 * 60
    source = SedModel.load().source_fluxes(truth)[0]
    twice = (
        plain("hsc")
        .render(truth, DISK, noise=False, neighbours=False, source_fluxes=2 * source)
        .flux
    )
    assert (twice - without).sum(axis=(1, 2))[1] == pytest.approx(2 * magnified[1], rel=1e-3)


# --- objects ---------------------------------------------------------------------------------


@BOTH
def test_star_has_its_flux_and_position(instrument):
    seen = plain(instrument).render(star(), POINT, noise=False, neighbours=False)
    total = seen.flux.sum(axis=(1, 2))
    # Wings leave the stamp.
    assert total == pytest.approx(20.0, rel=0.03)
    y, x = np.indices(seen.flux.shape[1:]) - 79.5
    inner = np.where(np.hypot(x, y) < 10, seen.flux[1], 0)
    assert (inner * x).sum() / inner.sum() == pytest.approx(seen.offset[0], abs=0.05)
    assert (inner * y).sum() / inner.sum() == pytest.approx(seen.offset[1], abs=0.05)
    asked = plain(instrument).render(star(), POINT, offset=(0.2, -0.3))
    assert np.allclose(asked.offset, [0.2, -0.3])


@BOTH
@pytest.mark.parametrize("morphology", [0, 1, 2, 3])
@pytest.mark.parametrize("inclination", [20.0, 85.0])
def test_galaxy_has_its_flux_in_each_band(instrument, morphology, inclination):
    q = max(np.cos(np.radians(inclination)), 0.2)
    truth = galaxy(
        morphology=morphology,
        inclination=inclination,
        q_disk=q,
        re_disk=1.8,
        dust_lane=1.0,
        clumpiness=0.6,
        tail_strength=0.2,
        merger_ratio=0.0,
    )
    light = DISK * np.linspace(0.5, 2.0, 24)
    model = plain(instrument)
    image = model.render(truth, light, noise=False, neighbours=False).flux
    expected = light.sum(axis=0)[model._columns]
    assert image.sum(axis=(1, 2)) == pytest.approx(expected, rel=0.04)


def test_nucleus_is_a_point_with_its_share_of_the_bulge():
    # A Seyfert 1 in a wide bulge; without it, all light has the bulge's shape.
    active = dict(redshift=0.05, luminosity_distance=229.0, log_l_agn=41.5, log_sigma_star=2.2)
    wide = dict(morphology=0, n_arms=0, re_bulge=4.0, n_bulge=1.0, re_disk=4.0)
    truth = galaxy(agn=3, **wide, **active)
    nucleus = SedModel.load().nucleus_fluxes(truth)[0]
    assert (nucleus > 0).all()
    light = np.stack([3 * nucleus, 0 * nucleus, 0 * nucleus])
    model = plain("hsc")
    options = dict(noise=False, neighbours=False, offset=(0.0, 0.0))
    active_image = model.render(truth, light, **options).flux
    quiet_image = model.render(galaxy(agn=0, **wide), light, **options).flux
    point = model.render(star(), np.stack([nucleus, 0 * nucleus, 0 * nucleus]), **options).flux
    assert np.allclose(
        active_image - quiet_image * (2 / 3),
        point,
        atol=0.01 * point.max(axis=(1, 2))[:, None, None],
    )
    assert active_image.sum(axis=(1, 2)) == pytest.approx(3 * nucleus[model._columns], rel=0.04)


@pytest.mark.parametrize("morphology", [0, 1])
def test_galaxy_without_light_is_dark(morphology):
    truth = galaxy(morphology=morphology, re_disk=0.3)
    seen = plain().render(truth, 0 * DISK, noise=False, neighbours=False)
    assert not seen.flux.any()


def test_companion_comes_on_top():
    lone = galaxy(morphology=3, merger_ratio=0.0, merger_separation=5.0, merger_angle=90.0)
    pair = galaxy(morphology=3, merger_ratio=0.5, merger_separation=5.0, merger_angle=90.0)
    images = [plain().render(t, DISK, noise=False, neighbours=False) for t in (lone, pair)]
    more = images[1].flux - images[0].flux
    assert more[1].sum() == pytest.approx(25.0, rel=0.05)
    y, x = np.unravel_index(more[1].argmax(), more[1].shape)
    # Position angle 90 is east, to the left.
    assert x < 79.5 - 10
    assert abs(y - 79.5) < 6


def test_arms_wind_as_told():
    detail = np.full(48, 0.5)
    shape = Shape(
        detail=detail,
        re_disk=6.0,
        q_disk=0.95,
        inclination=18.0,
        n_arms=2,
        arm_contrast=1.0,
        arm_pitch=15.0,
        flocculence=0.0,
        winding=1,
    )
    grid = Grid(size=128, scale=0.262, x=64.0, y=64.0)
    mirrored = dataclasses.replace(shape, winding=-1)
    angles = {}
    for name, one in (("z", shape), ("s", mirrored)):
        light = draw_galaxy(one, grid, fwhm_arcsec=0.6)
        y, x = np.indices((128, 128)) - 64
        r = np.hypot(x, y) * 0.262
        # The angle of the arms, of twofold symmetry, grows outwards if they wind counter-clockwise.
        twice = []
        for low, high in ((3.0, 3.4), (3.4, 3.8)):
            ring = (r > low) & (r < high)
            phase = np.exp(2j * np.arctan2(y, x)[ring])
            twice.append(np.angle((light.planes[2][ring] * phase).sum()))
        angles[name] = np.angle(np.exp(1j * (twice[1] - twice[0])))
    assert angles["z"] > 0.1
    assert angles["s"] < -0.1


def test_masks_mark_arms_and_bar():
    result = plain().render(galaxy(re_disk=5.0, bar_length=3.0, bar_strength=0.3), DISK)
    assert result.arm_mask.any()
    assert result.bar_mask.any()
    y, x = np.nonzero(result.bar_mask)
    assert np.hypot(x - 79.5, y - 79.5).max() * 0.262 < 3.6
    nothing = plain().render(galaxy(n_arms=0, bar_length=0.0), DISK)
    assert not nothing.arm_mask.any()
    assert not nothing.bar_mask.any()
    assert plain().render(galaxy(), DISK, maps=False).segmentation is None


def test_segmentation_marks_sources():
    result = plain().render(galaxy(), DISK)
    assert result.segmentation[79, 79] == 1
    assert result.segmentation.max() > 1
    # Sources are where there is light.
    level = np.median(result.noiseless[1][result.segmentation == 0])
    assert (result.noiseless[1][result.segmentation > 0] > level).all()


# --- noise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_noise_is_normal_and_correlated_as_told(shift):
    noise = correlated_normals(bit_generator(np.array([0.1, 0.2, 0.3, 0.4])), (512, 512), shift)
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3.0, abs=0.1)
    expected = shift * (1 - shift) / (shift**2 + (1 - shift) ** 2)
    assert (noise[:, 1:] * noise[:, :-1]).mean() == pytest.approx(expected, abs=0.01)
    assert (noise[2:] * noise[:-2]).mean() == pytest.approx(0.0, abs=0.01)


@BOTH
def test_inverse_variances_tell_the_noise(instrument):
    result = plain(instrument).render(galaxy(), DISK * 40)
    pulls = (result.flux - result.noiseless) * np.sqrt(result.ivar)
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    # The bright galaxy adds noise of its own.
    assert result.ivar[1, 80, 80] < 0.5 * result.ivar[1].max()


@BOTH
def test_depth_is_that_of_the_conditions(instrument):
    # Flux in an aperture of blank sky scatters as uncorrelated noise of `sigma` would.
    model = ImageModel(Config(), instrument)
    blank = model.render(star(3), fluxes(0.0, 0.0, 0.0), size=512, neighbours=False)
    patch = conditions_at(5, model.instrument, 217.0, 1.0)
    sums = blank.flux[1, :480, :480].reshape(30, 16, 30, 16).sum(axis=(1, 3))
    assert sums.std() / 16 == pytest.approx(patch.sigma[1], rel=0.1)


# --- determinism -----------------------------------------------------------------------------


def same(a, b):
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
    )


@BOTH
def test_images_do_not_depend_on_batch_and_order(instrument):
    objects = [(galaxy(i, re_disk=0.5 + i), DISK * (1 + i)) for i in range(5)]
    objects += [(star(10 + i), POINT * 4**i) for i in range(3)]
    model = ImageModel(Config(), instrument)
    first = [model.render(*one) for one in objects]
    other = ImageModel(Config(), instrument)
    order = [6, 1, 7, 0, 4, 3, 2, 5]
    for k in order:
        assert same(other.render(*objects[k]), first[k])
    # What else is asked for changes nothing.
    bare = ImageModel(Config(), instrument).render(*objects[2], maps=False)
    assert np.array_equal(bare.flux, first[2].flux)


def test_other_seeds_and_objects_differ():
    one = ImageModel(Config(5), "hsc").render(galaxy(1), DISK).flux
    assert not np.array_equal(one, ImageModel(Config(6), "hsc").render(galaxy(1), DISK).flux)
    assert not np.array_equal(one, ImageModel(Config(5), "hsc").render(galaxy(2), DISK).flux)


def test_both_instruments_see_the_same_neighbours():
    found = around(5, 1, 20.0)
    larger = around(5, 1, 60.0)
    # A larger frame only adds sources.
    assert set(found.east) <= set(larger.east)
    counts = [len(around(5, i, 20.0)) for i in range(40)]
    assert 20 < np.mean(counts) < 120


# --- artefacts -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Artefacts)])
def test_artefacts_can_be_forced_and_are_flagged(name):
    always = dataclasses.replace(NO_ARTEFACTS, **{name: 1.0})
    bright = fluxes(60000.0, 0.0, 0.0) if name in ("saturation", "spikes") else DISK
    if name == "oversubtraction":
        bright = DISK * 60
    truth = star() if name in ("saturation", "spikes") else galaxy(re_disk=12.0)
    clean = plain().render(truth, bright)
    hit = ImageModel(Config(), "legacysurvey", artefacts=always).render(truth, bright)
    assert clean.flags == ()
    assert name in hit.flags
    assert not np.array_equal(clean.flux, hit.flux)
    assert (hit.ivar[~hit.mask] == 0).all()
    assert (hit.ivar[hit.mask] > 0).all()
    if name in ("saturation", "missing", "satellite"):
        assert not hit.mask.all()


def test_probabilities_are_checked():
    with pytest.raises(ValueError, match="no probability"):
        Artefacts(satellite=1.5)


# --- bad input -------------------------------------------------------------------------------


def test_bad_input_gets_one_clear_error():
    with pytest.raises(KeyError, match="no instrument 'lsst'"):
        ImageModel(Config(), "lsst")
    model = plain()
    with pytest.raises(ValueError, match="one object"):
        model.render(Truth({"object_id": [1, 2], "kind": [1, 1]}), POINT)
    for size in (0, -3, 20.5):
        with pytest.raises(ValueError, match="no side of an image"):
            model.render(star(), POINT, size=size)
    with pytest.raises(ValueError, match="have shape"):
        model.render(star(), POINT[:2])
    with pytest.raises(ValueError, match="negative or not finite"):
        model.render(star(), -POINT)
