"""A stream delivers what the stores hold, each pair once, and goes on where it was."""

import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisky.data.match import match
from omnisky.data.store import open_store, write_store
from omnisky.data.stream import Permutation, RowReader, Schedule, Stream, reader
from omnisky.modalities import (
    Catalog,
    Coefficients,
    Image,
    Observations,
    Scalar,
    SegmentationMap,
    SkyObjects,
    Spectrum,
)

pytest.importorskip("cdshealpix")

COUNT = 90


def positions(seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 360, COUNT), np.degrees(np.arcsin(rng.uniform(-1, 1, COUNT)))


def holes(rng, shape):
    """Return a mask with bad pixels and with objects that have none good."""
    mask = rng.random(shape) > 0.1
    mask[::7] = False
    return mask


def images(ra, dec):
    rng = np.random.default_rng(11)
    shape = COUNT, 3, 8, 8
    image = Image(
        rng.normal(0, 1, shape).astype(np.float32),
        rng.uniform(0.5, 2, shape),
        holes(rng, shape),
        ("g", "r", "z"),
        0.262,
        rng.uniform(1, 2, (COUNT, 3)),
        rng.uniform(-0.5, 0.5, (COUNT, 2)),
    )
    magnitude = Scalar(rng.normal(20, 1, COUNT), rng.uniform(1, 2, COUNT), rng.random(COUNT) > 0.2)
    return SkyObjects(
        survey="sky",
        object_id=np.arange(COUNT) * 10**15,
        ra_deg=ra,
        dec_deg=dec,
        observations=Observations({"sky_image": image, "sky_mag": magnitude}),
    )


def spectra(ra, dec):
    rng = np.random.default_rng(12)
    shape = COUNT, 150
    spectrum = Spectrum(
        rng.normal(5, 1, shape),
        rng.uniform(0.5, 2, shape),
        holes(rng, shape),
        np.linspace(360, 980, 150),
        rng.uniform(0.1, 0.2, shape),
    )
    return SkyObjects(
        survey="fibre",
        object_id=np.array([f"é-{n}" for n in range(COUNT)]),
        ra_deg=ra,
        dec_deg=dec,
        observations=Observations({"fibre_spectrum": spectrum}),
    )


def coefficients(ra, dec):
    rng = np.random.default_rng(13)
    value = Coefficients(rng.normal(0, 1, (COUNT, 6)), rng.uniform(1, 2, (COUNT, 6)))
    known = np.arange(5) < rng.integers(0, 6, COUNT)[:, None]
    catalog = Catalog(*rng.uniform(0, 1, (5, COUNT, 5)), known)
    field = SegmentationMap(rng.random((COUNT, 8, 8)), pixel_scale_arcsec=0.3)
    return SkyObjects(
        survey="prism",
        object_id=np.arange(COUNT) + 7,
        ra_deg=ra,
        dec_deg=dec,
        observations=Observations(
            {"prism_coefficients": value, "prism_catalog": catalog, "prism_map": field}
        ),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of stores of one sky: a third of the second survey is elsewhere."""
    folder = tmp_path_factory.mktemp("sky")
    ra, dec = positions(1)
    elsewhere = np.arange(COUNT) % 3 == 0
    other = [np.where(elsewhere, a, b) for a, b in zip(positions(2), (ra, dec), strict=True)]
    options = {"margin_arcsec": 0, "max_rows": 30}
    for codec in ("raw", "lossless", "q16"):
        write_store([images(ra, dec)], folder / f"sky_{codec}", codec=codec, **options)
        write_store([spectra(*other)], folder / f"fibre_{codec}", codec=codec, **options)
    write_store([coefficients(ra, dec)], folder / "prism", **options)
    write_store([spectra(*other)], folder / "fibre_open", profile="interchange", **options)
    return folder


def opened(folder, codec="raw", more=(), **options):
    stores = [folder / f"sky_{codec}", folder / f"fibre_{codec}", *(folder / m for m in more)]
    names = ["sky", "fibre", *more]
    return match(*stores, radius_arcsec=1, names=names, **options)


STATIC = {"unit", "bands", "pixel_scale_arcsec", "wavelength"}


def assert_batch_is_of_the_stores(batch, pairs):
    for name, store in pairs.stores.items():
        who = batch[f"{name}.objects"]
        present = who.present.numpy()
        assert (present == (who.row.numpy() >= 0)).all()
        objects = store.read(who.row.numpy()[present])
        assert (who.object_id[present] == objects.object_id).all()
        assert (who.ra_deg.numpy()[present] == objects.ra_deg).all()
        assert (who.dec_deg.numpy()[present] == objects.dec_deg).all()
        assert not who.ra_deg.numpy()[~present].any()
        for modality, measurement in objects.observations.items():
            held = batch[f"{name}.{modality}"]
            for part, tensor in vars(held).items():
                if part in STATIC:
                    continue
                wanted = getattr(measurement, part)
                assert isinstance(tensor, torch.Tensor), (modality, part)
                np.testing.assert_array_equal(tensor.numpy()[present], wanted, err_msg=part)
                assert not tensor.numpy()[~present].any(), (modality, part)


@pytest.mark.parametrize("codec", ["raw", "lossless", "q16"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_what_the_stores_hold(folder, codec, shuffle):
    pairs = opened(folder, codec, ["prism"], how="left")
    with pairs.stream(17, shuffle=shuffle, verify=True, threads=3) as stream:
        batches = 0
        for batch in stream:
            assert_batch_is_of_the_stores(batch, pairs)
            batches += 1
    assert batches == len(stream) == 6
    assert batch["sky.sky_image"].bands == ("g", "r", "z")
    assert batch["sky.sky_image"].pixel_scale_arcsec == 0.262
    assert batch["fibre.fibre_spectrum"].wavelength.tolist() == np.linspace(360, 980, 150).tolist()
    assert batch["sky.objects"].present.all()


def test_units_are_those_of_the_declaration(tmp_path):
    ra, dec = positions(1)
    objects = SkyObjects(
        survey="gaia",
        object_id=np.arange(COUNT),
        ra_deg=ra,
        dec_deg=dec,
        observations=Observations({"gaia_g": Scalar(np.arange(COUNT))}),
    )
    path = write_store([objects], tmp_path / "gaia", margin_arcsec=0)
    pairs = match(path, path, radius_arcsec=1, names=["a", "b"])
    (batch,) = pairs.stream(COUNT)
    assert batch["a.gaia_g"].unit == "mag"


def test_separations(folder):
    pairs = opened(folder, how="left")
    (batch,) = pairs.stream(COUNT, shuffle=False, columns=["sky.sky_mag"])
    wanted = np.nan_to_num(pairs.separation_arcsec)
    assert (batch["fibre.objects"].separation_arcsec.numpy() == wanted).all()
    assert not batch["sky.objects"].separation_arcsec.any()


def test_interchange_store_is_read_through_pyarrow(folder):
    stores = folder / "sky_raw", folder / "fibre_open"
    pairs = match(*stores, radius_arcsec=1, how="left", names=["sky", "fibre"])
    with pytest.warns(UserWarning, match="omnisky pack"):
        stream = pairs.stream(20)
    for batch in stream:
        assert_batch_is_of_the_stores(batch, pairs)


def rows_of(stream):
    return [row for batch in stream for row in batch["sky.objects"].row.tolist()]


def test_each_pair_once_an_epoch_and_in_another_order(folder):
    pairs = opened(folder)
    stream = pairs.stream(7, columns=["sky.sky_mag.value"], seed=3)
    first, second = rows_of(stream), rows_of(stream)
    assert stream.epoch == 2
    assert sorted(first) == sorted(second) == sorted(pairs.rows["sky"].tolist())
    assert first != second
    assert rows_of(pairs.stream(30, columns=["sky.sky_mag.value"], seed=3)) == first
    assert rows_of(pairs.stream(30, columns=["sky.sky_mag.value"], seed=4)) != first
    assert rows_of(pairs.stream(30, shuffle=False)) == pairs.rows["sky"].tolist()


def test_columns_that_are_asked_for(folder):
    columns = ["sky.sky_image.flux", "sky.sky_mag", "fibre.fibre_spectrum.ivar"]
    batch = next(opened(folder).stream(4, columns=columns))
    assert set(batch) == {
        "sky.objects",
        "sky.sky_image",
        "sky.sky_mag",
        "fibre.objects",
        "fibre.fibre_spectrum",
    }
    assert batch["sky.sky_image"].flux is not None
    assert batch["sky.sky_image"].mask is batch["fibre.fibre_spectrum"].flux is None
    assert batch["sky.sky_mag"].ivar is not None


# The schedule.


@given(st.integers(1, 700), st.integers(0, 2**64), st.integers(0, 5))
def test_permutation_is_a_bijection(n, seed, epoch):
    order = Permutation(n, seed, epoch)(np.arange(n))
    assert sorted(order.tolist()) == list(range(n))


def test_permutation_is_the_same_for_ever():
    assert Permutation(10, 1, 2)(np.arange(10)).tolist() == [4, 6, 9, 5, 0, 3, 8, 2, 7, 1]


def test_permutation_of_a_thousand_million():
    order = Permutation(10**9, 5)
    some = order(np.arange(1000))
    assert (some == np.concatenate([order(np.array([i])) for i in range(1000)])).all()
    assert len(set(some.tolist())) == 1000
    # As even as chance: ten bins of 100 +- 10.
    counts = np.histogram(some, bins=10, range=(0, 10**9))[0]
    assert counts.min() > 60
    assert counts.max() < 140
    with pytest.raises(IndexError, match="outside a permutation"):
        order(np.array([10**9]))


def test_shuffles_are_even():
    """Every pair comes at every place about equally often over many epochs."""
    n, epochs = 6, 1500
    at = np.stack([Permutation(n, 9, epoch)(np.arange(n)) for epoch in range(epochs)])
    counts = np.stack([np.bincount(column, minlength=n) for column in at.T])
    assert np.abs(counts - epochs / n).max() < 6 * np.sqrt(epochs / n)


starts_strategy = st.lists(st.integers(0, 12), min_size=1, max_size=12).map(
    lambda counts: np.concatenate([[0], np.cumsum(counts)])
)


@given(starts_strategy, st.integers(0, 4), st.booleans(), st.integers(1, 5), st.integers(0, 3))
def test_ranks_share_an_epoch_evenly(starts, block, shuffle, world, epoch):
    options = {"starts": starts, "block": block, "shuffle": shuffle, "seed": 1, "world_size": world}
    ranks = [Schedule(rank=rank, **options) for rank in range(world)]
    parts = [s.pairs(epoch, 0, s.count) for s in ranks]
    together = np.concatenate(parts).tolist()
    assert len({len(p) for p in parts}) == 1
    assert len(set(together)) == len(together)
    assert int(starts[-1]) - len(together) < world
    assert all(0 <= pair < starts[-1] for pair in together)
    # In pieces as in one go.
    pieces = [ranks[0].pairs(epoch, k, k + 1) for k in range(ranks[0].count)]
    assert [int(p[0]) for p in pieces] == parts[0].tolist()


@given(starts_strategy, st.integers(1, 4), st.integers(0, 3))
def test_block_shuffle_opens_few_partitions_at_a_time(starts, block, epoch):
    schedule = Schedule(starts=starts, block=block)
    pairs = schedule.pairs(epoch, 0, schedule.count)
    partition = np.searchsorted(starts, pairs, side="right") - 1
    held = np.unique(partition)
    first = np.array([np.argmax(partition == number) for number in held])
    last = np.array([len(partition) - 1 - np.argmax(partition[::-1] == number) for number in held])
    for at in range(len(partition)):
        assert ((first <= at) & (at <= last)).sum() <= block


def test_block_shuffle_of_a_match(folder):
    pairs = opened(folder)
    stream = pairs.stream(9, block=1, columns=["sky.sky_mag"])
    rows = rows_of(stream)
    assert sorted(rows) == sorted(pairs.rows["sky"].tolist())
    owner = pairs.stores["sky"].starts.searchsorted(rows, side="right")
    assert (np.diff(owner) != 0).sum() == len(set(owner.tolist())) - 1
    with pytest.raises(ValueError, match="needs pairs in the order of the first store"):
        pairs[::-1].stream(9, block=1)


# Going on where it was.


@settings(max_examples=25)
@given(
    stop=st.integers(0, 25),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    block=st.sampled_from([None, 2]),
)
def test_resume_is_exact_to_the_sample(folder, stop, sizes, block):
    pairs = opened(folder)
    options = {"columns": ["sky.sky_mag"], "seed": 5, "block": block, "threads": 1}
    whole = pairs.stream(1, **options)
    wanted = [rows_of(whole) for _ in range(2)]
    with pairs.stream(sizes[0], **options) as stream:
        seen = []
        for _ in range(stop):
            if len(seen) == len(wanted[0]):
                break
            seen += next(stream)["sky.objects"].row.tolist()
        state = json.loads(json.dumps(stream.state_dict()))
    with pairs.stream(sizes[1], **options) as again:
        again.load_state_dict(state)
        rest = rows_of(again)
        assert seen + rest == wanted[0]
        assert rows_of(again) == wanted[1]


def test_state_after_an_epoch_begins_the_next(folder):
    stream = opened(folder).stream(11, columns=["sky.sky_mag"])
    rows_of(stream)
    again = opened(folder).stream(11, columns=["sky.sky_mag"])
    again.load_state_dict(stream.state_dict())
    assert rows_of(again) == rows_of(stream)


def test_resume_on_another_number_of_ranks(folder):
    pairs = opened(folder)
    options = {"columns": ["sky.sky_mag"], "seed": 1}
    whole = rows_of(pairs.stream(60, **options))
    two = [pairs.stream(3, rank=rank, world_size=2, **options) for rank in range(2)]
    for stream in two:
        next(stream), next(stream)
    assert two[0].state_dict() == two[1].state_dict()
    four = [pairs.stream(4, rank=rank, world_size=4, **options) for rank in range(4)]
    for stream in four:
        stream.load_state_dict(two[0].state_dict())
    rest = [rows_of(stream) for stream in four]
    assert sorted(row for rows in rest for row in rows) == sorted(whole[12:])
    assert len({len(r) for r in rest}) == 1
    five = pairs.stream(4, rank=0, world_size=5, **options)
    with pytest.raises(ValueError, match="use as many ranks as before"):
        five.load_state_dict(two[0].state_dict())


def test_load_in_the_middle_of_an_epoch(folder):
    stream = opened(folder).stream(8, columns=["sky.sky_mag"])
    start, first = stream.state_dict(), next(stream)["sky.objects"].row.tolist()
    next(stream)
    stream.load_state_dict(start)
    assert next(stream)["sky.objects"].row.tolist() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "seed=0, but this one has seed=8"),
        ({"shuffle": False}, "shuffle=True, but this one has shuffle=False"),
        ({"block": 2}, "block=0, but this one has block=2"),
    ],
)
def test_state_of_another_stream_is_refused(folder, change, message):
    state = opened(folder).stream(8).state_dict()
    with pytest.raises(ValueError, match=message):
        opened(folder).stream(8, **change).load_state_dict(state)


def test_state_of_another_match_is_refused(folder):
    pairs = opened(folder)
    state = pairs.stream(8).state_dict()
    with pytest.raises(ValueError, match="the state is of a stream with match="):
        pairs[1:].stream(8).load_state_dict(state)
    with pytest.raises(ValueError, match="a stream's state has"):
        pairs.stream(8).load_state_dict({"epoch": 1})


# Buffers.


def test_a_batch_is_valid_until_the_next_but_one(folder):
    stream = opened(folder).stream(4, columns=["sky.sky_image.flux"])
    before, addresses = None, set()
    for batch in stream:
        flux = batch["sky.sky_image"].flux
        addresses.add(flux.data_ptr())
        if before is not None:
            assert torch.equal(*before)
        before = flux, flux.clone()
    assert len(addresses) <= 5


def test_pinned_memory_needs_an_accelerator(folder):
    if torch.accelerator.is_available():
        batch = next(opened(folder).stream(4, pin_memory=True))
        assert batch["sky.sky_image"].flux.is_pinned()
    else:
        with pytest.raises(ValueError, match="pin_memory=True needs an accelerator"):
            opened(folder).stream(4, pin_memory=True)


def test_copies_stay_valid(folder):
    stream = opened(folder).stream(4, columns=["sky.sky_image.flux"], copy=True)
    kept = [(b["sky.sky_image"].flux, b["sky.sky_image"].flux.clone()) for b in stream]
    assert all(torch.equal(*pair) for pair in kept)
    assert len({flux.data_ptr() for flux, _ in kept}) == len(kept)


FLAT = """
import resource, sys
import numpy as np
from omnisky.data.match import Match
pairs = Match.open(sys.argv[1])
def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with pairs.stream(8, threads=2) as stream:
    for _ in range(8):
        next(stream)
    before = used()
    for _ in range(3):
        for batch in stream:
            assert batch["wide.wide_image"].flux.shape[1:] == (2, 96, 96)
print(used() - before)
"""


def test_memory_is_flat(tmp_path, root):
    """Three passes over a store of 60 MB take no more memory than its first batches."""
    count = 320
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, count), rng.uniform(-60, 60, count)

    def batches():
        for start in range(0, count, 40):
            some = slice(start, start + 40)
            flux = rng.normal(0, 1, (40, 2, 96, 96)).astype(np.float32)
            yield SkyObjects(
                survey="wide",
                object_id=np.arange(start, start + 40),
                ra_deg=ra[some],
                dec_deg=dec[some],
                observations=Observations(
                    {"wide_image": Image(flux, np.ones_like(flux), None, ("g", "r"), 0.3)}
                ),
            )

    path = write_store(batches(), tmp_path / "wide", margin_arcsec=0, max_rows=100)
    pairs = match(path, path, radius_arcsec=1, names=["wide", "again"])
    pairs.save(tmp_path / "pairs")
    command = [sys.executable, "-c", FLAT, str(tmp_path / "pairs")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 12


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"threads": -1}, "threads must be a positive integer"),
        ({"block": 0}, "block must be a positive integer"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, world_size\)"),
        ({"seed": -1}, "seed and block must not be negative"),
        ({"columns": ["sky.sky_imag"]}, "no column 'sky.sky_imag' to stream; there are sky.sky_im"),
        ({"columns": ["sky.sky_image.flex"]}, "there are sky.sky_image.flux"),
        ({"columns": ["hsc.hsc_image"]}, "no column 'hsc.hsc_image'"),
    ],
)
def test_refuses(folder, options, message):
    with pytest.raises(ValueError, match=message):
        Stream(opened(folder), **{"batch_size": 4, **options})


def test_closed(folder):
    stream = opened(folder).stream(4)
    batch = next(stream)
    kept = batch["sky.sky_image"].flux.clone()
    stream.close()
    stream.close()
    assert torch.equal(batch["sky.sky_image"].flux, kept)
    with pytest.raises(ValueError, match="the stream is closed"):
        next(stream)


@pytest.fixture
def copied(folder, tmp_path):
    """Return a folder with copies of two packed stores, to be damaged."""
    for name in ("sky_raw", "fibre_raw", "sky_q16", "fibre_q16"):
        shutil.copytree(folder / name, tmp_path / name)
    return tmp_path


def test_store_written_again_is_refused(copied):
    pairs = opened(copied)
    len(pairs)
    shutil.rmtree(copied / "fibre_raw")
    write_store([spectra(*positions(4))], copied / "fibre_raw", margin_arcsec=0)
    with pytest.raises(ValueError, match="fibre_raw changed since it was opened"):
        pairs.stream(4)


def heavy_place(store, column, row=0):
    """Return file, offset and length of a row of the store's second partition."""
    path, offset, length = store.heavy(column).locate(store.partitions[1], np.array([row]))
    return path, int(offset[0]), int(length[0])


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 16]))


@pytest.mark.parametrize("codec", ["raw", "q16"])
def test_flipped_bit_is_found_by_verify(copied, codec):
    pairs = opened(copied, codec, how="left")
    path, offset, length = heavy_place(pairs.stores["sky"], "sky_image_flux")
    flip(path, offset + length // 2)
    with pytest.raises(ValueError, match="'sky_image_flux', row group 0 is not as it was written"):
        rows_of(pairs.stream(9, verify=True))


def test_truncated_file(copied):
    pairs = opened(copied, how="left")
    stream = pairs.stream(9)
    rows_of(stream)
    path, offset, _ = heavy_place(pairs.stores["sky"], "sky_image_ivar")
    os.truncate(path, offset + 10)
    with pytest.raises(ValueError, match=f"cannot be read from {path}: the file ends .* early"):
        rows_of(stream)


def test_file_that_is_gone(copied):
    pairs = opened(copied, how="left")
    fresh, used = pairs.stream(9), pairs.stream(9)
    rows_of(used)
    path = pairs.stores["sky"].partitions[0].path
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        rows_of(fresh)
    rows_of(used)  # it holds the file
    used._reader._files = reader._Files()
    with pytest.raises(ValueError, match=f"{path} cannot be opened"):
        rows_of(used)


def test_damaged_code_is_an_error_of_its_file(copied):
    pairs = opened(copied, "q16", how="left")
    path, offset, length = heavy_place(pairs.stores["sky"], "sky_image_flux")
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(length))
    with pytest.raises(ValueError, match=r"'sky_image_flux' cannot be read from .*Npix="):
        rows_of(pairs.stream(9))


def test_an_error_can_be_gone_past(copied):
    """After an error the stream is where it was: what was read ahead is not lost."""
    pairs = opened(copied)
    options = {"columns": ["sky.sky_image.flux"], "threads": 2}
    wanted = rows_of(pairs.stream(9, **options))
    stream = pairs.stream(9, **options)
    seen = next(stream)["sky.objects"].row.tolist()
    stream._reader._files.close()
    with pytest.raises(ValueError, match="stream is closed"):
        seen.extend(row for batch in stream for row in batch["sky.objects"].row.tolist())
    again = pairs.stream(9, **options)
    again.load_state_dict(stream.state_dict())
    assert seen + rows_of(again) == wanted


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_short_reads_are_completed(sizes, data):
    """Network file systems and signals deliver in parts; what is in memory is asked for first."""
    content = bytes(range(256)) * 2
    views = [memoryview(bytearray(n)) for n in sizes]
    asked = []

    def preadv(handle, views, offset, flags=0):
        asked.append(flags)
        if flags and data.draw(st.booleans()):
            raise BlockingIOError(11, "not in memory")
        wanted = sum(map(len, views))
        some = data.draw(st.integers(1, wanted))
        got = content[offset : offset + some]
        for view in views:
            view[: len(got)], got = got[: len(view)], got[len(view) :]
            if not got:
                break
        return some

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader.os, "preadv", preadv)
        if not reader._fill(0, views, 5, sum(sizes)):
            assert reader._fill(0, views, 5, sum(sizes), wait=True)
    assert b"".join(bytes(v) for v in views) == content[5 : 5 + sum(sizes)]
    assert asked[0] == reader._NOWAIT


def test_many_files_are_not_all_kept_open(folder, monkeypatch):
    monkeypatch.setattr(reader, "_OPEN_FILES", 2)
    pairs = opened(folder, how="left")
    with pairs.stream(20, threads=2) as stream:
        for batch in stream:
            assert_batch_is_of_the_stores(batch, pairs)
        assert len(stream._reader._files._open) <= 4


def test_no_matches(folder):
    pairs = opened(folder)[:0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(pairs.stream(4)) == []
        assert len(pairs.stream(4)) == 0


@pytest.mark.parametrize("name", ["sky_raw", "sky_q16", "fibre_lossless", "fibre_open", "prism"])
def test_rows_are_read_in_any_order_and_more_than_once(folder, name):
    store = open_store(folder / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = RowReader(store, store.modalities, threads=2)
    assert len(rows) == COUNT
    wanted = np.array([70, 3, 3, 89, 0])
    first = rows.read(wanted)
    rows.read(np.arange(30))  # must not change what was read before
    for found in (first, rows.read(wanted)):
        there = store.read(wanted)
        assert (found.object_id == there.object_id).all()
        for modality, measurement in there.observations.items():
            for part, value in vars(measurement).items():
                np.testing.assert_array_equal(getattr(found.observations[modality], part), value)
    rows.close()


def test_rows_of_an_unknown_modality_are_refused(folder):
    with pytest.raises(ValueError, match=r"no column 'store\.nothing' to stream"):
        RowReader(open_store(folder / "prism"), ["nothing"])
