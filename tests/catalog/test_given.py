"""What stores have is embedded: XP coefficients as arms, matched objects from all their stores."""

import warnings

import numpy as np
import pytest
import torch

from omnisky.catalog import embed_store, embedding
from omnisky.catalog.given import open_given
from omnisky.codecs.scalars.coefficients import CoefficientsCodec
from omnisky.codecs.scalars.scalar import ScalarCodec
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.data.match import match
from omnisky.data.store import open_store, verify, write_store
from omnisky.modalities import Coefficients, Observations, Scalar, SkyObjects
from omnisky.model import Model
from omnisky.surveys.gaia import arms

COUNT = 200
# Objects of the other survey, and those without a spectrum; the first has neither g nor partner.
SEEN, BARE = np.arange(50, 170), np.arange(50, 170, 9)
UNREAD = "ignore:the model .* does not read"


def stars():
    rng = np.random.default_rng(0)
    g = rng.uniform(10, 18, COUNT)
    g[0] = np.nan
    # Of one sign: the codec's smallest norm is that of the faintest star.
    shape = rng.uniform(0.5, 1, (COUNT, 110)) * np.exp(-np.arange(110) % 55 / 9)
    xp = 10 ** rng.uniform(1, 3, (COUNT, 1)) * shape
    xp[BARE] = np.nan
    return g, rng.uniform(9, 17, COUNT), xp, rng.uniform(0, 5, COUNT)


def survey(name, which, ra_off=0.0, **measured):
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(1, 359, COUNT), np.degrees(np.arcsin(rng.uniform(-0.95, 0.95, COUNT)))
    return SkyObjects(
        survey=name,
        object_id=which + (0 if name == "first" else 1000),
        ra_deg=ra[which] + ra_off,
        dec_deg=dec[which],
        observations=Observations({n: values[which] for n, values in measured.items()}),
        epoch=Scalar(np.full(len(which), 2016.0)),
    )


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Return the folder of a store of scalars, and of stores of some of its stars' spectra."""
    folder = tmp_path_factory.mktemp("sky")
    g, rp, xp, parallax = stars()
    everything = np.random.default_rng(2).permutation(COUNT)
    light = {"gaia_g": Scalar(g), "gaia_parallax": Scalar(parallax)}
    heavy = {"gaia_rp": Scalar(rp), "gaia_xp_coefficients": Coefficients(xp)}
    write_store([survey("first", everything, **light)], folder / "first", max_rows=40)
    other = survey("second", SEEN, 1e-5, **heavy)
    for profile in ("packed", "interchange"):
        write_store([other], folder / profile, profile=profile, max_rows=30)
    write_store([survey("first", everything, **light, **heavy)], folder / "whole", max_rows=40)
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Return the folder of an untrained model that reads two scalars and the arms."""
    codecs = {name: ScalarCodec.grid(name, 8, 20, 64) for name in ("gaia_g", "gaia_rp")}
    whole = Coefficients(stars()[2])
    for name, arm in zip(("gaia_xp_bp", "gaia_xp_rp"), arms(whole), strict=True):
        codecs[name] = CoefficientsCodec.fit(arm, modality=name, bins=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Model.from_preset("tiny", Tokenizer(codecs))
    found.network.eval()
    return found.save_pretrained(tmp_path_factory.mktemp("model") / "tiny", card="# Tiny\n")


def measured(lacking=()):
    """Return what the model reads of all stars, in their order; some lack rp and spectrum."""
    g, rp, xp, _ = stars()
    lacking = np.asarray(lacking, dtype=int)
    rp[lacking] = np.nan
    xp[lacking] = np.nan
    bp, red = arms(Coefficients(xp))
    return Observations(
        {"gaia_g": Scalar(g), "gaia_rp": Scalar(rp), "gaia_xp_bp": bp, "gaia_xp_rp": red}
    )


def check(out, model, which, wanted):
    """Compare a store of embeddings with those of the model, by identifier."""
    found = open_store(out).read()
    order = np.argsort(found.object_id)
    np.testing.assert_array_equal(found.object_id[order], which)
    assert found.epoch is not None
    assert (found.epoch.value == 2016).all()
    place = survey("first", np.arange(COUNT), gaia_g=Scalar(stars()[0]))
    np.testing.assert_array_equal(found.ra_deg[order], place.ra_deg[which])
    vectors = found.observations["embedding"][order]
    should = Model.from_pretrained(model).embed(wanted[which])
    np.testing.assert_array_equal(vectors.present, should.valid)
    np.testing.assert_allclose(vectors.value[should.valid], should.vectors[should.valid], atol=2e-5)
    return should


def test_xp_coefficients_are_read_as_arms_and_what_is_not_read_is_told(sky, reader, tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        out = embed_store(sky / "whole", tmp_path / "out", model=reader)
    said = [str(w.message) for w in told if "does not read" in str(w.message)]
    assert said == [f"the model {reader} does not read gaia_parallax of {sky / 'whole'}: not used"]
    about = open_store(out).provenance
    assert about["modalities"] == ["gaia_g", "gaia_rp", "gaia_xp_bp", "gaia_xp_rp"]
    assert about["not_read_by_model"] == ["gaia_parallax"]
    check(out, reader, np.arange(COUNT), measured())


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ("gaia_xp_coefficients gaia_xp_bp", "gaia_xp_bp gaia_xp_rp"),
        ("gaia_rp gaia_xp_rp", "gaia_rp gaia_xp_rp"),
    ],
)
def test_arms_may_be_asked_for(sky, reader, tmp_path, asked, used):
    # Who names the measurements needs not be told which others there are.
    out = embed_store(sky / "whole", tmp_path / "out", model=reader, modalities=asked.split())
    assert open_store(out).provenance["modalities"] == used.split()
    check(out, reader, np.arange(COUNT), measured().select(*used.split()))


def test_coefficients_are_read_whole_where_the_model_knows_them(sky):
    given = open_given(sky / "whole")
    known = ("gaia_xp_coefficients", "gaia_xp_bp", "gaia_xp_rp")
    unread = ("gaia_g", "gaia_parallax", "gaia_rp")
    found, others = given.choose(known, None)
    assert found == ("gaia_xp_coefficients",)
    assert sorted(others) == sorted(unread)
    assert given.choose(known, ["gaia_xp_bp"])[0] == ("gaia_xp_bp",)


def matched(sky, folder, second="packed", **options):
    options = {"radius_arcsec": 1.0, **options}
    return match(sky / "first", sky / second, **options).save(folder / "both")


@pytest.mark.filterwarnings(UNREAD)
@pytest.mark.parametrize("second", ["packed", "interchange"])
def test_matched_objects_are_embedded_from_all_stores(sky, reader, tmp_path, second):
    both = matched(sky, tmp_path, second)
    out = embed_store(both, tmp_path / "out", model=reader)
    check(out, reader, SEEN, measured())
    assert verify(out) == []
    about = open_store(out).provenance
    assert about["modalities"] == ["gaia_g", "gaia_rp", "gaia_xp_bp", "gaia_xp_rp"]
    assert about["embedded_from"] == str(both)
    assert about["match"]["options"]["radius_arcsec"] == 1
    prints = [open_store(sky / name).fingerprint for name in ("first", second)]
    assert [store["fingerprint"] for store in about["match"]["stores"]] == prints


@pytest.mark.filterwarnings(UNREAD)
def test_objects_without_partners_are_embedded_from_their_own_store(sky, reader, tmp_path):
    both = matched(sky, tmp_path, how="left")
    out = embed_store(both, tmp_path / "out", model=reader)
    alone = np.setdiff1d(np.arange(COUNT), SEEN)
    assert not check(out, reader, np.arange(COUNT), measured(alone)).valid[0]
    # Where the first store has nothing that is asked for, they have no embedding.
    out = embed_store(both, tmp_path / "rp", model=reader, modalities=["gaia_rp"])
    should = check(out, reader, np.arange(COUNT), measured(alone).select("gaia_rp"))
    np.testing.assert_array_equal(np.flatnonzero(should.valid), SEEN)


@pytest.mark.filterwarnings(UNREAD)
def test_a_killed_run_of_a_match_goes_on(sky, reader, tmp_path, monkeypatch):
    both, calls, whole = matched(sky, tmp_path, how="left"), [], embedding._embedded

    def dies(objects, network):
        calls.append(len(objects.object_id))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(objects, network)

    monkeypatch.setattr(embedding, "_embedded", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_store(both, tmp_path / "out", model=reader)
    again = matched(sky, tmp_path / "again", how="left", radius_arcsec=2.0)
    with pytest.raises(ValueError, match="unfinished job that differs in"):
        embed_store(again, tmp_path / "out", model=reader)
    done = len(list((tmp_path / ".out.unfinished" / "journal").glob("source-*.json")))
    assert done >= 1
    before = len(calls)
    out = embed_store(both, tmp_path / "out", model=reader)
    monkeypatch.undo()
    fresh = embed_store(both, tmp_path / "fresh", model=reader)
    assert len(calls) - before <= 2 * (len(open_store(sky / "first").partitions) - done)
    one, two = (open_store(path).read() for path in (out, fresh))
    np.testing.assert_array_equal(one.object_id, two.object_id)
    vectors = [o.observations["embedding"].value for o in (one, two)]
    np.testing.assert_array_equal(*vectors)


@pytest.mark.slow
@pytest.mark.filterwarnings(UNREAD)
def test_a_match_on_dask_is_the_same(sky, reader, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    both = matched(sky, tmp_path)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
    )
    with cluster, distributed.Client(cluster) as client:
        out = embed_store(both, tmp_path / "out", model=reader, client=client)
    check(out, reader, SEEN, measured())


def test_matches_that_cannot_be_embedded_are_told(sky, reader, tmp_path):
    many = match(
        sky / "first", sky / "packed", radius_arcsec=6e5, one_to_one=False, n_neighbors=2
    ).save(tmp_path / "many")
    with pytest.raises(ValueError, match=r"have an object of first that another .*n_neighbors=1"):
        embed_store(many, tmp_path / "out", model=reader)
    none = matched(sky, tmp_path, radius_arcsec=1e-3)
    with pytest.raises(ValueError, match="it has no groups; match with a larger radius"):
        embed_store(none, tmp_path / "out", model=reader)
    twice = match(
        sky / "first", sky / "packed", sky / "interchange", radius_arcsec=1, how="left"
    ).save(tmp_path / "twice")
    with pytest.raises(ValueError, match=r"packed and .*interchange both have gaia_rp, which an"):
        embed_store(twice, tmp_path / "out", model=reader)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings(UNREAD)
def test_a_match_that_was_made_again_is_not_gone_on_with(sky, tmp_path):
    both = matched(sky, tmp_path)
    print_ = open_given(both).fingerprint
    assert open_given(both, print_) is open_given(both, print_)
    match(sky / "first", sky / "packed", radius_arcsec=1, how="left").save(both, overwrite=True)
    open_given(both, open_given(both).fingerprint)  # the process has another one by now
    with pytest.raises(ValueError, match="changed while it was being embedded"):
        open_given(both, print_)
