"""Sources of pretraining: tokenised once, the right objects, mixed by weight, clear errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from omnisky.codecs import ScalarCodec, Tokenizer
from omnisky.data.split import split_by_id
from omnisky.data.store import open_store, write_store
from omnisky.mock import Universe
from omnisky.modalities import Scalar, UnknownModalityError
from omnisky.model import Model
from omnisky.model.masking import MaskingConfig, sample_masks
from omnisky.storage import CheckpointError
from omnisky.train import read_recipe
from omnisky.train.codec.recipe import MockRecipe
from omnisky.train.pretraining import (
    PretrainingData,
    PretrainingObjective,
    PretrainingRecipe,
    PretrainingSource,
    TokenTable,
    evaluate_run,
    pretrain,
    tokenising,
)
from omnisky.train.pretraining.sources import Drawn
from omnisky.train.pretraining.tokenising import tokenise_sources
from omnisky.train.sampler import MixtureSampler
from tests.processes import run_well

RECIPES = Path(__file__).parents[2] / "recipes"

PROGRAM = Path(__file__).with_name("tokenising_program.py")
NAMES = ("legacysurvey_flux_g", "legacysurvey_flux_r", "desi_z", "gaia_parallax", "sdss_z")
FLUXES, SPECTRA = NAMES[:2], ("desi_z", "sdss_z")
MOCK = MockRecipe(objects=80, seed=3)
MASKING = MaskingConfig(input_budget=4, output_budget=3)


@pytest.fixture(scope="module")
def universe():
    return Universe(seed=3, n=80)


@pytest.fixture(scope="module")
def seen(universe):
    return universe.observations(modalities=NAMES)


@pytest.fixture(scope="module")
def tokenizer(seen):
    return Tokenizer({name: ScalarCodec.fit(seen[name], modality=name, bins=8) for name in NAMES})


@pytest.fixture(scope="module")
def stores(universe, tmp_path_factory):
    pytest.importorskip("cdshealpix")
    folder = tmp_path_factory.mktemp("stores")
    for survey, names in (("legacysurvey", FLUXES), ("desi", ("desi_z",))):
        objects = universe.observe(survey, modalities=names)
        write_store([objects], folder / survey, margin_arcsec=0)
    return folder


def data_of(*sources, chunk=16, path=""):
    return PretrainingData(sources=sources, chunk=chunk, path=str(path))


def mocked(**options):
    return PretrainingSource(mock=MOCK, **options)


def split_rows(split):
    return np.flatnonzero(split_by_id(np.arange(80)) == split)


def assert_same(tokens, expected):
    assert list(tokens) == list(expected)
    for name in tokens:
        assert torch.equal(tokens[name], expected[name]), name
        assert torch.equal(tokens.mask[name], expected.mask[name]), name


@pytest.mark.parametrize("needs", [(), ("desi_z",)])
def test_a_mock_universe_gives_one_row_an_object(tokenizer, seen, needs, tmp_path):
    (part,) = tokenise_sources(data_of(mocked(needs=needs)), tokenizer, tmp_path)
    assert part.training.mock
    assert part.training.ids.dtype == np.uint8
    for table, split in ((part.training, "train"), (part.held_out, "calibration")):
        rows = split_rows(split)
        expected = tokenizer.encode(seen[rows])
        wanted = needs or NAMES
        there = torch.stack([expected.mask[n][:, 0] for n in wanted]).any(0)
        assert 0 < int(there.sum()) <= len(rows)
        assert_same(table.tokens(), expected[there])
        np.testing.assert_array_equal(table.objects, rows[there.numpy()])


def test_each_source_gives_its_own_modalities(tokenizer, tmp_path):
    data = data_of(mocked(modalities=SPECTRA), mocked(objects=20), mocked(weight=0))
    spectra, few, aside = tokenise_sources(data, tokenizer, tmp_path)
    assert list(spectra.training.modalities) == list(SPECTRA)
    # Some object may be in no survey at all.
    assert 15 < len(few.training) <= 20
    assert len(few.held_out) == len(aside.held_out)
    assert aside.training is None


def test_matched_stores_give_one_row_an_object(tokenizer, seen, stores, tmp_path):
    pair = PretrainingSource(store=("legacysurvey", "desi"), radius_arcsec=1.5)
    left = PretrainingSource(store=("legacysurvey", "desi"), radius_arcsec=1.5, how="left")
    alone = PretrainingSource(store="legacysurvey")
    wanted = Tokenizer({name: tokenizer.codecs[name] for name in (*FLUXES, "desi_z")})
    parts = tokenise_sources(data_of(pair, left, alone, path=stores), wanted, tmp_path)
    counts = [len(part.training) + len(part.held_out) for part in parts]
    assert 0 < counts[0] < counts[1] == counts[2]
    assert all(bool(mask.all()) for mask in parts[0].training.tokens().mask.values())
    # The rows are those of the mock objects themselves, in another order.
    truth = wanted.encode(seen.select(*wanted.codecs))
    possible = set(map(tuple, torch.cat([truth[n] for n in wanted.codecs], 1).tolist()))
    for part in parts[:2]:
        assert set(map(tuple, part.training.ids.tolist())) <= possible
    names = open_store(stores / "legacysurvey").coordinates()["object_id"]
    left = np.concatenate([parts[2].training.objects, parts[2].held_out.objects])
    assert set(left) <= set(names)
    assert set(parts[0].training.objects) < set(parts[2].training.objects)


def reference_loss(network, ids, present, indices, generator):
    """Return the loss as it was before there were several sources."""
    visible, asked = sample_masks(
        present[indices], network.slot_modality, MASKING, generator, (), ()
    )
    targets = torch.gather(ids[indices], 1, asked.slots).flatten()
    total = torch.zeros(())
    for name, rows, logits in network(ids[indices], visible, asked):
        entropy = F.cross_entropy(logits.float(), targets[rows], reduction="sum")
        total = total + (2.0 if name == "desi_z" else 1.0) * entropy
    return total / len(indices)


def test_one_source_has_the_same_loss_to_the_bit(tokenizer, seen):
    torch.manual_seed(0)
    network = Model.from_preset("tiny", tokenizer).network
    tokens = tokenizer.encode(seen)
    objective = PretrainingObjective(network, tokens, tokens, MASKING, {"desi_z": 2.0})
    ids, present = network.lay_out(tokens)
    indices = torch.arange(40).flip(0)
    found, _ = objective.loss(network, indices, torch.Generator().manual_seed(5))
    expected = reference_loss(network, ids, present, indices, torch.Generator().manual_seed(5))
    assert torch.equal(found, expected)
    found.backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    expected.backward()
    assert all(map(torch.equal, gradients, (p.grad for p in network.parameters())))


def test_sources_are_mixed_by_weight(tokenizer, tmp_path):
    torch.manual_seed(0)
    both = Tokenizer({n: tokenizer.codecs[n] for n in (*FLUXES, *SPECTRA)})
    network = Model.from_preset("tiny", both).network
    data = data_of(mocked(modalities=FLUXES, weight=3), mocked(modalities=SPECTRA))
    parts = tokenise_sources(data, both, tmp_path)
    tables = [part.training for part in parts]
    masking = MaskingConfig(
        input_budget=4, output_budget=3, favoured=("desi_z",), favour=1.0, never_visible=("sdss_z",)
    )
    objective = PretrainingObjective(
        network, tables, [p.held_out for p in parts], masking, weights=[3.0, 1.0]
    )
    sampler = MixtureSampler(*zip(*objective.mixture, strict=True), 8, 0)
    indices = sampler.next_batch()
    assert int((indices < len(tables[0])).sum()) == 6
    batch = objective.draw(indices, torch.Generator().manual_seed(0))
    numbers = torch.cat([network.slots_of(n) for n in FLUXES])
    for row, index in enumerate(indices.tolist()):
        shown = batch.visible.slots[row][batch.visible.mask[row]]
        wanted = batch.asked.slots[row][batch.asked.mask[row]]
        assert torch.isin(torch.cat([shown, wanted]), numbers).all() == (index < len(tables[0]))
        assert not torch.isin(shown, network.slots_of("sdss_z")).any()
    loss, metrics = objective.loss(network, indices, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss)
    assert "entropy/legacysurvey_flux_g" in metrics
    found = objective.evaluate()
    # Beside desi_z no object has what may be visible.
    assert set(found) == {f"entropy/{n}" for n in (*FLUXES, "sdss_z")}


def test_tokens_are_made_once(tokenizer, monkeypatch, tmp_path):
    (first,) = tokenise_sources(data_of(mocked()), tokenizer, tmp_path)
    monkeypatch.setattr(Drawn, "read", lambda *a: pytest.fail("drawn again"))
    (again,) = tokenise_sources(data_of(mocked()), tokenizer, tmp_path)
    assert again.training.fingerprint == first.training.fingerprint
    assert np.array_equal(again.training.ids, first.training.ids)
    # The same universe on the way out of another run.
    (folder,) = (tmp_path / "tokens").iterdir()
    saved = PretrainingSource(tokens=folder.name)
    (taken,) = tokenise_sources(data_of(saved, path=folder.parent), tokenizer, tmp_path / "b")
    assert taken.training.fingerprint == first.training.fingerprint


def test_a_stopped_run_goes_on_by_the_chunk(tokenizer, monkeypatch, tmp_path):
    (whole,) = tokenise_sources(data_of(mocked(), chunk=8), tokenizer, tmp_path / "whole")
    read, counts = Drawn.read, {"calls": 0}

    def stop(*arguments):
        counts["calls"] += 1
        if counts["calls"] == 4:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(Drawn, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenise_sources(data_of(mocked(), chunk=8), tokenizer, tmp_path / "stopped")
    (chunks,) = (tmp_path / "stopped/tokens").glob("*/.chunks-train")
    assert len(list(chunks.glob("chunk-*.npz"))) == 3
    before = counts["calls"]
    (found,) = tokenise_sources(data_of(mocked(), chunk=8), tokenizer, tmp_path / "stopped")
    assert found.training.fingerprint == whole.training.fingerprint
    assert found.held_out.fingerprint == whole.held_out.fingerprint
    n_chunks = sum(-(-len(split_rows(split)) // 8) for split in ("train", "calibration"))
    assert counts["calls"] - before == n_chunks - 3
    assert not list((tmp_path / "stopped/tokens").glob("*/.*"))


def no_space(*_):
    raise OSError("disk full")


def test_other_data_in_a_stopped_run_are_refused(tokenizer, monkeypatch, tmp_path):
    monkeypatch.setattr(tokenising, "write_table", no_space)
    with pytest.raises(OSError, match="disk full"):
        tokenise_sources(data_of(mocked()), tokenizer, tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="chunks of tokens that were made of other data"):
        tokenise_sources(data_of(mocked(), chunk=9), tokenizer, tmp_path)


def test_two_processes_share_the_chunks(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "codecs")
    printed = {text.strip() for text in run_well(PROGRAM, tmp_path)}
    loaded = Tokenizer.from_pretrained(tmp_path / "codecs")
    (part,) = tokenise_sources(data_of(mocked(), chunk=8), loaded, tmp_path / "alone")
    assert printed == {part.training.fingerprint}


def test_changed_data_are_named(tokenizer, seen, tmp_path):
    tokenise_sources(data_of(mocked()), tokenizer, tmp_path)
    (folder,) = (tmp_path / "tokens").iterdir()
    other = {n: ScalarCodec.fit(seen[n], modality=n, bins=7) for n in NAMES}
    with pytest.raises(ValueError, match=r"something else .* codecs changed"):
        tokenise_sources(data_of(mocked()), Tokenizer(other), tmp_path)
    with pytest.raises(ValueError, match=r"something else .* rows changed"):
        tokenise_sources(data_of(mocked(objects=7)), tokenizer, tmp_path)
    saved = data_of(PretrainingSource(tokens=folder.name), path=folder.parent)
    with pytest.raises(ValueError, match="made by other codecs"):
        tokenise_sources(saved, Tokenizer(other), tmp_path / "b")
    named = np.load(folder / "train/objects.npy")
    np.save(folder / "train/objects.npy", named[1:])
    with pytest.raises(CheckpointError, match=r"no readable tokens .* objects with .* identif"):
        TokenTable.open(folder / "train")
    (folder / "train/objects.npy").unlink()  # as tables of before it was kept
    assert TokenTable.open(folder / "train").objects is None
    (folder / "train/ids.npy").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="no readable tokens"):
        TokenTable.open(folder / "train")
    (folder / "train/mask.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask\.npy"):
        TokenTable.open(folder / "train")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ({"modalities": ("nothing",)}, UnknownModalityError, "has no nothing; it has"),
        ({"modalities": ("hsc_a_g",)}, UnknownModalityError, "none of the model's modalities"),
        ({"needs": ("hsc_a_g",)}, UnknownModalityError, "none of the model's modalities"),
    ],
)
def test_modalities_that_do_not_fit_are_named(source, error, message, tokenizer, tmp_path):
    with pytest.raises(error, match=message):
        tokenise_sources(data_of(mocked(**source)), tokenizer, tmp_path)


def test_sources_without_use_are_named(tokenizer, monkeypatch, tmp_path):
    stars = PretrainingSource(dataset="gaia-apogee-mini")
    only = Tokenizer({"desi_z": tokenizer.codecs["desi_z"]})
    with pytest.raises(ValueError, match="has none of the model's modalities desi_z; it has"):
        tokenise_sources(data_of(stars), only, tmp_path)
    data = data_of(mocked(modalities=FLUXES), mocked(weight=0))
    with pytest.raises(ValueError, match="no source with a positive weight has desi_z"):
        tokenise_sources(data, tokenizer, tmp_path)
    monkeypatch.setattr(Drawn, "rows", lambda *a: np.arange(0))
    with pytest.raises(ValueError, match="has no objects to train on: none of its train split"):
        tokenise_sources(data_of(mocked()), tokenizer, tmp_path / "empty")


def test_ids_that_are_none_name_source_and_objects(tokenizer, monkeypatch, tmp_path):
    # What a network makes of NaN.
    broken = torch.full((1,), torch.nan).long()
    monkeypatch.setattr(
        ScalarCodec,
        "encode_masked",
        lambda self, m: (broken.expand(len(m), 1), torch.ones(len(m), 1, dtype=torch.bool)),
    )
    with pytest.raises(ValueError, match=r"80 objects, seed 3, objects \d+ … \d+: token ids of"):
        tokenise_sources(data_of(mocked()), tokenizer, tmp_path)


def test_missing_values_have_no_tokens(tokenizer, monkeypatch, tmp_path):
    empty = Scalar(value=np.full(80, np.nan))
    read = Drawn.read

    def without(self, rows, names):
        found = read(self, rows, names)
        there = np.flatnonzero(empty[rows].present)
        return {**found, "desi_z": (there, empty[rows][there])}

    monkeypatch.setattr(Drawn, "read", without)
    (part,) = tokenise_sources(data_of(mocked()), tokenizer, tmp_path)
    assert not part.training.tokens().mask["desi_z"].any()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('dataset = "a"\nstore = "b"', "exactly one of dataset"),
        ("", "exactly one of dataset"),
        ('dataset = "a"\nweight = -1', "weight >= 0"),
        ('dataset = "a"\nweight = 0', "positive weight; found 1 without"),
        ('dataset = "a"\nmodalities = ["x"]\nneeds = ["y"]', "needs y, which is none of its"),
        ("store = 3", "expected text"),
        ('dataset = "a"\nhow = "outer"', "expected one of 'inner', 'left'"),
        ('dataset = "a"\nsurveys = 3', "unknown key 'data.sources.0.surveys'"),
    ],
)
def test_wrong_sources_of_a_recipe_are_named(section, message, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        f'codecs = "c"\n[[data.sources]]\n{section}\n[masking]\ninput_budget = 1\n'
        "output_budget = 1\n[train]\nsteps = 1\nbatch_size = 1\n"
    )
    with pytest.raises(ValueError, match=message):
        read_recipe(path, PretrainingRecipe)


def read_gains(told):
    places = {name: i for i, name in enumerate((*told["modalities"], "all others"))}
    gains = np.full((len(places), len(places) - 1), np.nan)
    for entry in told["entries"]:
        gains[places[entry["given"]], places[entry["target"]]] = entry["gain"]
    return gains


def test_a_mixture_of_real_and_mock_is_pretrained(star_tokenizer, tokenizer, tmp_path):
    star_tokenizer.save_pretrained(tmp_path / "stars")
    Tokenizer({n: tokenizer.codecs[n] for n in (*FLUXES, *SPECTRA)}).save_pretrained(
        tmp_path / "sky"
    )
    path = tmp_path / "r.toml"
    mock = "[[data.sources]]\nmock = { objects = 80, seed = 3 }\nmodalities = "
    path.write_text(
        f'codecs = ["{tmp_path}/stars", "{tmp_path}/sky"]\npreset = "tiny"\n'
        '[[data.sources]]\ndataset = "gaia-apogee-mini"\n'
        f"{mock}{list(FLUXES)}\n{mock}{list(SPECTRA)}\n{mock}{[*FLUXES, 'desi_z']}\nweight = 0\n"
        "[masking]\ninput_budget = 20\noutput_budget = 10\n"
        "[evaluation]\nobjects = 8\nmatrix_objects = 8\n"
        "[train]\nsteps = 2\nbatch_size = 8\n"
    )
    model = pretrain(path, (), tmp_path / "run")
    assert set(FLUXES) | set(SPECTRA) <= set(model.network.names)
    told = json.loads((tmp_path / "run/any_to_any.json").read_text())
    assert [source["mock"] for source in told["sources"]] == [False, True, True, True]
    apart = {(e["given"], e["target"]) for e in told["entries"] if not e["seen_together"]}
    assert ("desi_z", "legacysurvey_flux_g") in apart
    assert ("desi_z", "sdss_z") not in apart
    assert (tmp_path / "run/any_to_any.png").stat().st_size > 10_000
    again = evaluate_run(tmp_path / "run", objects=8)
    assert again.table() == pytest.approx(read_gains(told), abs=1e-5, nan_ok=True)
    with pytest.raises(FileNotFoundError, match="holds no codecs"):
        pretrain(path, ["codecs=nowhere"], tmp_path / "other")


def test_a_codec_that_ships_goes_by_its_name():
    from omnisky.train.pretraining.running import _codecs_of

    assert list(_codecs_of("image")) == ["legacysurvey_image", "hsc_image"]
    assert "gaia_xp" in _codecs_of("nano")


@pytest.mark.parametrize(
    "path", sorted((RECIPES / "pretrain").glob("*.toml")), ids=lambda p: p.stem
)
def test_shipped_recipes_are_read(path):
    plan = read_recipe(path, PretrainingRecipe, ["train.seed=3"])
    assert plan.train.seed == 3
    assert plan.data.sources
