"""Without the extra, what needs it says which one to install."""

import sys

import numpy as np
import pytest

from omnisky.data.store import codecs, healpix
from omnisky.surveys import mmu


def test_what_needs_the_extra_says_so(monkeypatch, tmp_path):
    for name in ("cdshealpix", "numcodecs", "h5py"):
        monkeypatch.setitem(sys.modules, name, None)
    codecs._blosc.cache_clear()
    with pytest.raises(ImportError, match=r"needs cdshealpix: pip install 'omnisky\[data\]'"):
        healpix.healpix29(np.zeros(1), np.zeros(1))
    with pytest.raises(ImportError, match=r"needs? numcodecs: pip install 'omnisky\[data\]'"):
        codecs.encode_rows("lossless", np.zeros((1, 4), np.float32))
    with pytest.raises(ImportError, match=r"needs h5py: pip install 'omnisky\[data\]'"):
        list(mmu.read(tmp_path / "a.hdf5"))
    codecs._blosc.cache_clear()


def test_importing_the_store_loads_nothing_of_the_extra():
    import subprocess

    code = (
        "import omnisky.data.store, sys\n"
        "loaded = {'cdshealpix', 'numcodecs', 'h5py', 'dask', 'pandas', 'torch', 'lsdb', 'hats'}\n"
        "assert not loaded & set(sys.modules), loaded & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
