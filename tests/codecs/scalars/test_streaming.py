"""Exact quantiles of streams: the very numbers of numpy, whatever the chunks and the budget."""

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisky.codecs import ScalarCodec
from omnisky.codecs.scalars.streaming import bin_means, exact_quantiles
from omnisky.modalities import Observations, Scalar, SkyObjects

FRACTIONS = np.arange(0, 65) / 64


def chunked(values, parts):
    pieces = np.array_split(values, parts)
    return lambda: [(piece, np.zeros(len(piece))) for piece in pieces]


@given(
    st.lists(
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False, width=64),
            st.sampled_from([0.0, -0.0, 1.0, 5e-324, -5e-324]),
        ).filter(lambda x: abs(x) < 1e300),
        min_size=1,
        max_size=200,
    ),
    st.integers(1, 7),
    st.sampled_from([1, 5, 50, 10_000]),
)
def test_quantiles_are_those_of_numpy_to_the_last_bit(values, parts, budget):
    values = np.array(values)
    found = exact_quantiles(chunked(values, parts), FRACTIONS, budget=budget)
    np.testing.assert_array_equal(found, np.quantile(values, FRACTIONS))


@pytest.mark.parametrize("budget", [1, 300, 10**6])
def test_quantiles_of_many_values_with_ties(budget):
    rng = np.random.default_rng(0)
    for values in (
        rng.standard_cauchy(30_001),
        rng.integers(-3, 4, 20_000).astype(float),
        np.concatenate([np.zeros(9_000), rng.lognormal(size=1_000)]),
    ):
        found = exact_quantiles(chunked(values, 5), FRACTIONS, budget=budget)
        np.testing.assert_array_equal(found, np.quantile(values, FRACTIONS))


def test_nan_is_no_value():
    values = np.array([3.0, np.nan, 1.0, 2.0, np.nan])
    found = exact_quantiles(chunked(values, 2), np.array([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(found, [1.0, 2.0, 3.0])


def test_infinite_or_no_values_are_refused():
    with pytest.raises(ValueError, match="1 values are infinite"):
        exact_quantiles(chunked(np.array([1.0, np.inf]), 1), FRACTIONS)
    with pytest.raises(ValueError, match="there are no values to fit"):
        exact_quantiles(chunked(np.array([np.nan]), 1), FRACTIONS)


def test_means_do_not_depend_on_chunks():
    values = np.random.default_rng(1).normal(size=5_000)
    border = np.quantile(values, FRACTIONS)
    index = np.searchsorted(border[1:-1], values, side="right")
    expected = [values[index == i].mean() for i in range(64)]
    for parts in (1, 13):
        np.testing.assert_allclose(bin_means(chunked(values, parts), border), expected, rtol=1e-12)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    if find_spec("cdshealpix") is None or find_spec("numcodecs") is None:
        pytest.skip("sky stores need omnisky[data]")
    from omnisky.data.store import open_store, write_store

    rng = np.random.default_rng(2)
    count = 3_000
    value = np.where(rng.random(count) < 0.1, np.nan, rng.lognormal(size=count))
    sky = SkyObjects(
        survey="toy",
        object_id=np.arange(count),
        ra_deg=rng.uniform(0, 360, count),
        dec_deg=np.degrees(np.arcsin(rng.uniform(-1, 1, count))),
        observations=Observations(
            {
                "toy_flux": Scalar(value, np.full(count, 4.0)),
                "toy_colour": Scalar(rng.normal(size=count)),
            }
        ),
    )
    store = open_store(write_store([sky], tmp_path_factory.mktemp("sky") / "toy", max_rows=300))
    assert len(store.partitions) > 5
    return store, sky.observations["toy_flux"]


def test_a_store_is_fitted_partition_by_partition_as_if_at_once(store):
    opened, flux = store
    for scale in ("quantile", "log", "error"):
        streamed = ScalarCodec.fit_store(opened, "toy_flux", bins=64, scale=scale)
        at_once = ScalarCodec.fit(flux, modality="toy_flux", bins=64, scale=scale)
        assert streamed.config == at_once.config
        for name in ("edges", "limits"):
            a, b = (getattr(codec.bins, name).numpy() for codec in (streamed, at_once))
            np.testing.assert_allclose(a, b, rtol=1e-12 if scale == "error" else 0)
        np.testing.assert_allclose(streamed.bins.means, at_once.bins.means, rtol=1e-10)


def test_only_training_objects_of_a_store_are_seen(store):
    opened, flux = store
    even = ScalarCodec.fit_store(opened, "toy_flux", bins=64, where=lambda ids: ids % 2 == 0)
    expected = ScalarCodec.fit(flux[::2], modality="toy_flux", bins=64)
    np.testing.assert_array_equal(even.bins.edges, expected.bins.edges)


def test_what_a_store_does_not_have_is_named(store):
    with pytest.raises(ValueError, match="no scalar 'toy_size'; its scalars are toy_flux"):
        ScalarCodec.fit_store(store[0], "toy_size")
    with pytest.raises(ValueError, match="needs at least as many finite values"):
        ScalarCodec.fit_store(store[0], "toy_flux", bins=4096)
