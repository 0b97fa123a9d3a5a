"""Real survey files go into a store and come out as their reader gave them."""

from functools import partial

import numpy as np
import pytest

from omnisky.data.store import Source, ingest, open_store, verify
from omnisky.surveys import sdss


@pytest.mark.real_data
@pytest.mark.parametrize("codec", ["raw", "q16"])
def test_sdss_spectra(tmp_path, real_data, codec):
    files = sorted((real_data / "native" / "sdss_spec").rglob("spec-*.fits"))[:8]
    if not files:
        pytest.skip("no SDSS spectra among the survey files")
    sources = [Source(name=f.name, read=partial(sdss.read, [f]), files=(f,)) for f in files]
    store = open_store(ingest(sources, tmp_path / "sdss", codec=codec))
    found = store.read()
    assert verify(store.path) == []
    assert len(store.files()) == len(files)
    given = {o.object_id[0]: o for f in files for o in sdss.read([f])}
    assert sorted(found.object_id) == sorted(given)
    for number, name in enumerate(found.object_id):
        mine, theirs = found.observations, given[name].observations
        flux, expected = (m["sdss_spectrum"].flux for m in (mine, theirs))
        sigma_inverse = np.sqrt(theirs["sdss_spectrum"].ivar[0])
        error = np.abs(flux[number] - expected[0]) * sigma_inverse
        assert error.max() <= (0 if codec == "raw" else 1 / 32)
        assert (mine["sdss_spectrum"].mask[number] == theirs["sdss_spectrum"].mask[0]).all()
        assert mine["sdss_z"].value[number] == theirs["sdss_z"].value[0]
