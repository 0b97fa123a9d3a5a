"""Contact sheets: colours of known pixels, and figures that say mock."""

import numpy as np
import pytest
from PIL import Image

from omnisky.mock import Universe
from omnisky.mock.gallery import draw_gallery, rgb


def test_empty_sky_is_dark_grey_and_light_is_white():
    flux = np.zeros((4, 6, 5), dtype=np.float32)
    flux[:, 5, 0] = 1e4
    image = rgb(flux, "griz", 0.262)
    # asinh(0.5) of asinh(0.5) + asinh(300), of 255.
    assert image[3, 3].tolist() == [17, 17, 17]
    # The last row is the most northern and comes out on top.
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image.shape == (6, 5, 3)


def test_channels_are_red_green_and_blue():
    flux = np.full((4, 4, 4), 0.02, dtype=np.float32)
    flux[3] = 0.2
    red, green, blue = rgb(flux, "griz", 0.262)[0, 0].tolist()
    assert red > green
    assert red > blue
    with pytest.raises(ValueError, match="no channel y"):
        rgb(flux, "griz", 0.262, channels="yrg")


def test_flux_counts_by_area_whatever_the_pixels():
    coarse = rgb(np.full((3, 4, 4), 0.08, dtype=np.float32), "grz", 0.262)
    fine = rgb(np.full((3, 4, 4), 0.02, dtype=np.float32), "grz", 0.131)
    assert np.array_equal(coarse, fine)


def test_sheets_are_written_and_say_mock(tmp_path):
    paths = draw_gallery(Universe(seed=1, n=40), tmp_path, most=8)
    assert {path.name for path in paths} >= {"mock-galaxies.png", "mock-spectra.png"}
    for path in paths:
        with Image.open(path) as image:
            assert "mock" in image.info["Title"]
            assert np.asarray(image).std() > 1
