"""Packing brings any store into the packed profile, and loses nothing."""

import numpy as np
import pytest

from omnisky.data.store import open_store, pack, verify, write_store
from omnisky.surveys import Problems


@pytest.mark.parametrize("profile", ["packed", "interchange"])
def test_any_store_is_packed(tmp_path, batches, same, toy_mag, profile):
    old = write_store(
        batches,
        tmp_path / "old",
        profile=profile,
        max_rows=40,
        declarations={"toy_mag": toy_mag},
        provenance={"selection": "bright"},
    )
    new = open_store(pack(old, tmp_path / "new", codec="lossless", max_rows=100))
    assert new.profile == "packed"
    assert new.columns["toy_image_flux"].codec == "lossless"
    same(new.read(), batches)
    assert verify(new.path) == []
    assert new.declaration("toy_mag") == toy_mag
    assert new.provenance["source"]["selection"] == "bright"
    assert new.provenance["fingerprint"] == open_store(old).fingerprint
    back = open_store(pack(new.path, tmp_path / "back", profile="interchange"))
    same(back.read(), batches)


def test_loss_is_not_added_to_loss(tmp_path, batches):
    old = write_store(batches[:1], tmp_path / "old", codec="q16")
    for codec in ("q16", {"toy_image": "q16"}):
        with pytest.raises(ValueError, match="errors add up"):
            pack(old, tmp_path / "new", codec=codec)
    new, known = open_store(pack(old, tmp_path / "new")), open_store(old)
    assert (
        new.read(0).observations["toy_image"].flux == known.read(0).observations["toy_image"].flux
    ).all()


def test_a_damaged_partition_is_raised_or_reported(tmp_path, batches):
    old = open_store(write_store(batches, tmp_path / "old", max_rows=40))
    heavy = old.heavy("toy_image_flux")
    path, offsets, _ = heavy.locate(old.partitions[0], np.array([1]))
    data = bytearray(path.read_bytes())
    data[offsets[0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"Npix=.* cannot be read"):
        pack(old.path, tmp_path / "new")
    problems = Problems("quarantine")
    new = open_store(pack(old.path, tmp_path / "new", problems=problems))
    assert len(new) == len(old) - old.partitions[0].rows
    assert [p.file for p in problems.found] == [str(path)]


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data of the Multimodal Universe"):
        pack(tmp_path, tmp_path / "new")
