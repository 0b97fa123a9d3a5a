"""What is written is read again, and where it lies is where Parquet has it."""

import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from omnisky.data.store import open_store, verify, write_store
from omnisky.modalities import Coefficients, Observations, Scalar, SkyObjects, UnknownModalityError


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"codec": "raw"},
        {"codec": "lossless"},
        {"codec": {"toy_image": "lossless", "toy_coefficients_value": "lossless"}},
        {"profile": "interchange"},
    ],
    ids=["raw", "lossless", "mixed", "interchange"],
)
def test_objects_come_back_bit_by_bit(tmp_path, sky, same, options, text):
    given = [sky(50, seed, text=text) for seed in range(3)]
    path = write_store(given, tmp_path / "toy", max_rows=40, **options)
    store = open_store(path)
    assert len(store) == 150
    assert len(store.partitions) > 3
    assert store.survey == "toy"
    assert all(p.rows <= 40 for p in store.partitions)
    same(store.read(), given)
    assert verify(path) == []


def test_q16_stays_within_its_error(tmp_path, batches):
    path = write_store(batches, tmp_path / "toy", codec="q16")
    store = open_store(path)
    codecs = {name: column.codec for name, column in store.columns.items()}
    assert codecs["toy_image_flux"] == "q16"
    assert codecs["toy_image_mask"] == "bits"
    assert codecs["toy_coefficients_value"] == "raw"
    found = store.read()
    place = {i: (b, r) for b, batch in enumerate(batches) for r, i in enumerate(batch.object_id)}
    for number, name in enumerate(found.object_id):
        batch, row = place[name]
        for modality in ("toy_image", "toy_spectrum"):
            mine = found.observations[modality]
            theirs = batches[batch].observations[modality]
            error = np.abs(mine.flux[number] - theirs.flux[row]) * np.sqrt(theirs.ivar[row])
            assert error.max() <= 1 / 32
            np.testing.assert_allclose(mine.ivar[number], theirs.ivar[row], rtol=1.4e-3)
            assert (mine.mask[number] == theirs.mask[row]).all()


@pytest.mark.parametrize("codec", ["raw", "lossless", "q16"])
def test_bytes_lie_where_they_are_located(tmp_path, batches, codec):
    store = open_store(write_store(batches, tmp_path / "toy", codec=codec, max_rows=50))
    for number, partition in enumerate(store.partitions):
        rows = np.random.default_rng(0).permutation(partition.rows)[:9]
        objects = store.read(store.starts[number] + rows)
        for name, column in store.columns.items():
            heavy = store.heavy(name)
            path, offsets, lengths = heavy.locate(partition, rows)
            with open(path, "rb") as file:
                parts = [
                    os.pread(file.fileno(), n, at) for n, at in zip(lengths, offsets, strict=True)
                ]
            # Bit by bit what pyarrow has for these rows.
            stored = pq.ParquetFile(path).read([name])[name]
            assert parts == [stored[int(row)].as_py() for row in rows]
            assert (heavy.row_nbytes is None) == (column.codec != "raw")
            out = np.empty((len(rows), *heavy.shape), heavy.dtype)
            heavy.decode(parts, out)
            part = {"lsf": "lsf_sigma", "psf_fwhm": "psf_fwhm_arcsec", "offset": "offset_pixels"}
            measured = objects.observations[column.modality]
            assert (out == getattr(measured, part.get(column.part, column.part))).all()


def test_one_page_a_row_group_however_many_rows(tmp_path):
    count = 40_000
    rng = np.random.default_rng(0)
    value = rng.normal(size=(count, 3)).astype(np.float32)
    objects = SkyObjects(
        survey="many",
        object_id=np.arange(count),
        ra_deg=rng.uniform(10, 20, count),
        dec_deg=rng.uniform(10, 20, count),
        observations=Observations({"many_c": Coefficients(value)}),
    )
    store = open_store(write_store([objects], tmp_path / "many", margin_arcsec=0))
    (partition,) = store.partitions
    rows = np.array([0, 16383, 16384, 39_999])
    path, offsets, lengths = store.heavy("many_c_value").locate(partition, rows)
    coordinates = store.coordinates()
    with open(path, "rb") as file:
        for row, at, n in zip(rows, offsets, lengths, strict=True):
            found = np.frombuffer(os.pread(file.fileno(), n, at), np.float32)
            assert (found == value[coordinates["object_id"][row]]).all()
    with pytest.raises(IndexError, match="0 to 39999"):
        store.heavy("many_c_value").locate(partition, np.array([40_000]))


def test_coordinates_and_rows(tmp_path, batches):
    store = open_store(write_store(batches, tmp_path / "toy", max_rows=40))
    found = store.coordinates()
    assert set(found) == {
        *("healpix29", "object_id", "ra", "dec", "epoch", "pm_ra", "pm_dec", "partition", "row")
    }
    assert (np.diff(found["healpix29"]) >= 0).all()
    assert (found["epoch"] == 2015.5).all()
    assert np.isnan(found["pm_ra"]).any()
    assert (store.starts[found["partition"]] + found["row"] == np.arange(len(store))).all()
    rows = np.array([170, 3, 3, 99])
    objects = store.read(rows, columns=["toy_z"])
    assert objects.object_id.tolist() == found["object_id"][rows].tolist()
    assert list(objects.observations) == ["toy_z"]
    assert len(store.read(slice(0, 5))) == 5
    assert len(store.read(found["ra"] < 90)) == (found["ra"] < 90).sum()
    assert len(store.read(np.empty(0, np.int64))) == 0
    assert sum(len(b) for b in store.batches(0, most_bytes=10_000)) == store.partitions[0].rows


def test_what_is_not_there_is_refused(tmp_path, batches):
    store = open_store(write_store(batches[:1], tmp_path / "toy", profile="interchange"))
    with pytest.raises(UnknownModalityError, match="no modality 'toy_x'"):
        store.read(columns=["toy_x"])
    with pytest.raises(IndexError, match=r"rows of .* are 0 to 59"):
        store.read([60])
    with pytest.raises(KeyError, match="no heavy column"):
        store.heavy("toy_z")
    with pytest.raises(ValueError, match="pack the store first"):
        store.heavy("toy_image_flux").locate(store.partitions[0], np.array([0]))
    with pytest.raises(FileNotFoundError, match="expected a sky store"):
        open_store(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no omnisky\.json"):
        open_store(tmp_path)


def test_declarations_units_and_provenance_are_kept(tmp_path, batches, toy_mag):
    path = write_store(
        batches[:1],
        tmp_path / "toy",
        declarations={"toy_mag": toy_mag},
        provenance={"selection": "all of it"},
    )
    store = open_store(path)
    assert store.declaration("toy_mag") == toy_mag
    assert store.declaration("toy_z") is None
    assert store.provenance["selection"] == "all of it"
    schema = pq.read_schema(store.partitions[0].path)
    assert schema.field("toy_mag").metadata[b"unit"] == b"mag"
    assert schema.field("ra").metadata[b"unit"] == b"deg"
    assert b'"shape": [3, 12, 12]' in schema.field("toy_image_flux").metadata[b"omnisky"]


def test_modalities_that_come_late_and_widths_that_grow(tmp_path, sky):
    first, second = sky(20, 0), sky(20, 1)
    spectrum = second.observations["toy_spectrum"]
    # As of a flux in W m-2 nm-1: beyond float32, so that the column must be float64.
    wide = type(spectrum)(
        spectrum.flux, spectrum.ivar * 1e40, spectrum.mask, spectrum.wavelength, None
    )
    plain = first.observations["toy_spectrum"]
    narrow = type(plain)(plain.flux, None, plain.mask, plain.wavelength, plain.lsf_sigma)
    one = first.observations.drop("toy_image", "toy_mag")
    given = [
        SkyObjects(
            survey="toy",
            object_id=objects.object_id,
            ra_deg=objects.ra_deg,
            dec_deg=objects.dec_deg,
            observations=Observations({**observations, "toy_spectrum": changed}),
        )
        for objects, observations, changed in (
            (first, one, narrow),
            (second, second.observations, wide),
        )
    ]
    for codec in ("raw", "q16"):
        store = open_store(write_store(given, tmp_path / codec, codec=codec))
        assert store.columns["toy_spectrum_ivar"].dtype == "float64"
        found = store.read()
        late = np.isin(found.object_id, second.object_id)
        assert not found.observations["toy_image"].present[~late].any()
        assert not found.observations["toy_mag"].present[~late].any()
        assert not found.observations["toy_spectrum"].ivar[~late].any()
        assert not found.observations["toy_spectrum"].lsf_sigma[late].any()
        order = np.argsort(found.object_id[~late])
        flux = found.observations["toy_spectrum"].flux[~late][order]
        np.testing.assert_array_equal(flux, narrow.flux)  # lossless without inverse variances
        ivar = found.observations["toy_spectrum"].ivar[late][np.argsort(found.object_id[late])]
        np.testing.assert_allclose(ivar, wide.ivar, rtol=1.4e-3)


def test_float32_inverse_variances_are_rounded_only(tmp_path, sky):
    objects = sky(30)
    spectrum = objects.observations["toy_spectrum"]
    ivar = np.where(spectrum.mask, 1 / 0.37**2, 0)
    changed = type(spectrum)(spectrum.flux, ivar, spectrum.mask, spectrum.wavelength)
    observations = Observations({"toy_spectrum": changed})
    given = SkyObjects(
        survey="toy",
        object_id=objects.object_id,
        ra_deg=objects.ra_deg,
        dec_deg=objects.dec_deg,
        observations=observations,
    )
    store = open_store(write_store([given], tmp_path / "toy"))
    assert store.columns["toy_spectrum_ivar"].dtype == "float32"
    found = store.read().observations["toy_spectrum"].ivar
    assert np.abs(found[found > 0] * 0.37**2 - 1).max() < 6e-8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: {"survey": "other"}, "one survey"),
        (lambda o: {"object_id": np.array([f"x{i}" for i in o.object_id])}, "kind of identifier"),
        (
            lambda o: {"observations": Observations({"toy_z": o.observations["toy_spectrum"]})},
            "share one kind",
        ),
        (
            lambda o: {
                "observations": Observations(
                    {"toy_coefficients": Coefficients(np.zeros((len(o), 4)))}
                )
            },
            "share one shape",
        ),
    ],
)
def test_batches_that_do_not_belong_together(tmp_path, sky, change, message):
    first, second = sky(10, 0), sky(10, 1)
    odd = replace(second, **change(second))
    with pytest.raises(ValueError, match=message):
        write_store([first, odd], tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


def test_options_that_are_not_allowed(tmp_path, batches):
    for options, message in (
        ({"profile": "quick"}, "profile must be one of"),
        ({"codec": "zip"}, "no codec 'zip'"),
        ({"codec": "bits"}, "for single columns"),
        ({"codec": {"toy_imagine": "q16"}}, "does not have"),
        ({"codec": {"toy_image_mask": "q16"}}, "does not fit"),
        ({"max_rows": 0}, "must be positive"),
        ({"lowest_order": 5, "max_order": 3}, "lowest_order <= max_order"),
        ({"margin_arcsec": 1e6}, "wider than partitions"),
    ):
        with pytest.raises(ValueError, match=message):
            write_store(batches[:1], tmp_path / "toy", **options)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no objects"):
        write_store([], tmp_path / "toy")
    (tmp_path / "toy").mkdir()
    with pytest.raises(FileExistsError, match="choose another name"):
        write_store(batches[:1], tmp_path / "toy")


def test_an_empty_batch_is_no_trouble(tmp_path, sky, same):
    given = sky(10)
    empty = given[np.zeros(10, bool)]
    same(open_store(write_store([empty, given, empty], tmp_path / "toy")).read(), [given])


def test_runs_of_any_size_give_the_same_store(tmp_path, batches):
    one = open_store(write_store(batches, tmp_path / "a" / "toy", max_rows=40))
    many = open_store(write_store(batches, tmp_path / "b" / "toy", max_rows=40, run_bytes=100_000))
    for mine, theirs in zip(one.partitions, many.partitions, strict=True):
        assert mine.path.read_bytes() == theirs.path.read_bytes()


def test_margins_list_the_neighbours(tmp_path, sky):
    from astropy.coordinates import SkyCoord

    given = sky(3000, cap_deg=0.05)
    store = open_store(
        write_store(
            [
                given.__class__(
                    **{**given.__dict__, "observations": given.observations.select("toy_z")}
                )
            ],
            tmp_path / "toy",
            max_rows=200,
            max_order=12,
        )
    )
    found = store.coordinates()
    where = SkyCoord(found["ra"], found["dec"], unit="deg")
    for number, partition in enumerate(store.partitions):
        inside = found["partition"] == number
        margin = str(partition.path).replace("/toy/dataset", "/toy_10arcs/dataset")
        listed = set(pq.ParquetFile(margin).read()["object_id"].to_pylist())
        _, separation, _ = where[~inside].match_to_catalog_sky(where[inside])
        near = found["object_id"][~inside][separation.arcsec < 10]
        assert set(near.tolist()) <= listed
        assert not set(found["object_id"][inside].tolist()) & listed
    assert set(pq.read_schema(margin).names) >= {"_healpix_29", "object_id", "ra", "dec", "epoch"}
    assert "toy_z" not in pq.read_schema(margin).names


def test_scalars_alone(tmp_path):
    objects = SkyObjects(
        survey="toy",
        object_id=np.arange(5),
        ra_deg=np.linspace(0, 300, 5),
        dec_deg=np.linspace(-80, 80, 5),
        observations=Observations({"toy_z": Scalar(np.arange(5.0))}),
    )
    for profile in ("packed", "interchange"):
        store = open_store(write_store([objects], tmp_path / profile, profile=profile))
        assert sorted(store.read().observations["toy_z"].value.tolist()) == [0, 1, 2, 3, 4]
        assert store.columns == {}
