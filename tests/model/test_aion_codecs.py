"""AION-1's network together with codecs: what they encode, draw, add and save."""

import json

import numpy as np
import pytest
import torch
from aion.codecs import CatalogCodec as PeerCatalogCodec
from aion.fourm.modality_info import MODALITY_INFO
from aion.model import AION
from safetensors.torch import load_file, save_file

from omnisky.codecs import Codec, Tokenizer, Tokens
from omnisky.codecs.scalars.scalar import ScalarCodec
from omnisky.codecs.surroundings.catalog import CatalogCodec, CatalogCodecConfig
from omnisky.modalities import Catalog, Observations, Scalar
from omnisky.model import Model
from omnisky.model.embedding import _mean as mean

CLOSE = {"atol": 1e-4, "rtol": 0}


def write_codec(folder, config, tensors):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors")


@pytest.fixture(scope="module")
def catalogs():
    rng = np.random.default_rng(3)
    mask = np.arange(20) < rng.integers(1, 20, (6, 1))
    offsets = (np.where(mask, rng.uniform(-12, 12, mask.shape), 0) for _ in range(2))
    shapes = (np.where(mask, rng.uniform(-0.5, 0.5, mask.shape), 0) for _ in range(2))
    return Catalog(*offsets, *shapes, np.where(mask, rng.uniform(0.1, 4, mask.shape), 0), mask=mask)


@pytest.fixture(scope="module")
def peer_catalog():
    peer = PeerCatalogCodec()
    generator = torch.Generator().manual_seed(1)
    for key, high in (("SHAPE_E1", 0.5), ("SHAPE_E2", 0.5), ("SHAPE_R", 4.0)):
        quantizer = peer.quantizer.quantizers[key]
        quantizer._reservoir[:] = high * (2 * torch.rand(100_000, generator=generator) - 1)
        quantizer._generate_index_to_val()
    return peer


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    closed = {f"{part}_bias": False for part in ("qkv", "proj", "mlp", "norm")}
    sizes = {"dim": 64, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 4}
    domains = sorted(MODALITY_INFO)
    kind = {"act_layer": "SiLU", "gated_mlp": True, "qk_norm": True}
    return AION(config={"domains_in": domains, "domains_out": domains, **sizes, **kind, **closed})


@pytest.fixture(scope="module")
def folder(peer, peer_catalog, tmp_path_factory):
    """Return a checkpoint with codecs, as released: of redshift, a flux, and catalogues."""
    path = tmp_path_factory.mktemp("released")
    peer.eval().save_pretrained(path)
    z = {"quantizer.buckets": torch.linspace(0, 6, 1024)}
    write_codec(path / "codecs" / "Z", {"modality": "Z", "codebook_size": 1024}, z)
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).sort().values
    flux = {"quantizer._reservoir": values, "quantizer._index_to_val": values[::97][:1024]}
    write_codec(path / "codecs" / "FLUX_G", {"modality": "FLUX_G", "codebook_size": 1024}, flux)
    write_codec(path / "codecs" / "catalog", {"mask_value": 9999}, peer_catalog.state_dict())
    return path


@pytest.fixture(scope="module")
def model(folder):
    return Model.from_pretrained(folder)


@pytest.fixture
def fluxes():
    return Observations({"legacysurvey_flux_g": Scalar(np.exp(np.linspace(-2, 1.5, 5)))})


@torch.no_grad()
def test_catalogs_reach_the_network_with_its_own_ids(peer, peer_catalog, model, catalogs):
    """The released codec's ids are 204 below those of the network, which 0.0.2 never adds."""
    from aion.modalities import LegacySurveyCatalog

    def column(values):
        return torch.where(torch.from_numpy(catalogs.mask), torch.from_numpy(values), 9999)

    pixels = [np.floor(v / 0.262 + 48).astype(np.int64) for v in (catalogs.x, catalogs.y)]
    columns = map(column, [*pixels, catalogs.e1, catalogs.e2, catalogs.r])
    theirs = peer_catalog.encode(LegacySurveyCatalog(*columns))
    offset = MODALITY_INFO["catalog"]["vocab_offset"]
    for row, ids in enumerate(theirs):
        there = ids[ids != MODALITY_INFO["catalog"]["codec_pad_id"]][None] + offset
        expected = peer.encode({"catalog": there}, num_encoder_tokens=there.shape[1])
        given = Observations({"legacysurvey_catalog": catalogs[row : row + 1]})
        encoded = model.network._encode_given(model.tokenize(given))
        torch.testing.assert_close(encoded.context[encoded.mask], expected[0], **CLOSE)


def test_redshifts_are_drawn_from_the_bins_of_the_codec(model, fluxes, monkeypatch):
    """The network has 1025 ids of redshifts, the codec 1024 bins."""
    weight = model.network.logits["desi_z"].groups[0].weight
    assert weight.shape[0] == 1025
    # The id that no bin has would be drawn always.
    with torch.no_grad():
        before = weight[1024].clone()
        weight[1024] = 1e3 * weight[:1024].abs().max() * torch.sign(weight[1024])
    try:
        for name in ("desi_z", "sdss_z"):
            for method in ("roar", "maskgit"):
                z = model.generate(fluxes, name, n_samples=20, method=method)[name]
                assert z.probabilities.shape == (5, 1024)
                np.testing.assert_allclose(z.probabilities.sum(1), 1, atol=1e-5)
                assert ((z.mean > 0) & (z.mean < 6)).all()
                assert (z.quantile(0.1) < z.quantile(0.9)).all()
                assert z.samples.shape == (20, 5)
    finally:
        with torch.no_grad():
            weight[1024] = before


def test_catalogues_of_this_layout_are_not_generated_and_why(model, fluxes):
    own = Model.from_preset("tiny", layout="aion")
    for one in (model, own):
        with pytest.raises(
            ValueError, match=r"no token of it says how many sources .*layout 'own'"
        ):
            one.generate(model.tokenize(fluxes), "legacysurvey_catalog")


def test_modalities_join_a_checkpoint_with_codecs(model, fluxes):
    values = np.random.default_rng(0).normal(15, 3, 20_000)
    new = ScalarCodec.fit(Scalar(values), modality="gaia_g", bins=64)
    larger = model.extended(Tokenizer({**model.codecs, "gaia_g": new}))
    assert larger.network.names == [*model.network.names, "gaia_g"]
    np.testing.assert_allclose(larger.embed(fluxes).vectors, model.embed(fluxes).vectors, atol=1e-5)
    group = larger.network.embeddings["gaia_g"].groups[0]
    assert torch.equal(group.values, new.values()[:1])
    with pytest.raises(ValueError, match="has no codec of sdss_z"):
        model.extended(Tokenizer({n: c for n, c in model.codecs.items() if n != "sdss_z"}))


@torch.no_grad()
def test_saved_in_the_released_layout_nothing_is_lost(peer, folder, model, fluxes, tmp_path):
    path = model.save_pretrained(tmp_path / "m", layout="aion", card="# ours")
    theirs, ours = (load_file(p / "model.safetensors") for p in (folder, path))
    drawing = "decoder_embeddings.catalog.token_emb.weight"
    assert theirs[drawing].any()
    for name, tensor in theirs.items():
        if name == drawing or "decoder_embeddings" not in name or "token_emb" not in name:
            torch.testing.assert_close(ours[name], tensor, **CLOSE)
    assert (path / "README.md").read_text() == "# ours"
    again = Model.from_pretrained(path)
    assert again.codecs.keys() == model.codecs.keys()
    np.testing.assert_array_equal(again.embed(fluxes).vectors, model.embed(fluxes).vectors)
    ids = {"tok_flux_g": model.tokenize(fluxes)["legacysurvey_flux_g"]}
    read = AION.from_pretrained(path).eval()
    torch.testing.assert_close(read.encode(ids), peer.encode(ids), **CLOSE)


# Of processors that have none, and about something else.
@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_rounded_weights_are_not_saved_in_the_released_layout(model, tmp_path):
    rounded = model.extended(model.tokenizer).cast("bfloat16")
    with pytest.raises(ValueError, match=r"rounded by cast\('bfloat16'\).* load the model again"):
        rounded.save_pretrained(tmp_path / "m", layout="aion")
    assert not (tmp_path / "m").exists()


def test_the_released_layout_is_float32_and_survives_extending(model, tmp_path):
    drawing = "decoder_embeddings.catalog.token_emb.weight"
    larger = model.extended(model.tokenizer)
    path = larger.save_pretrained(tmp_path / "m", layout="aion")
    tensors = load_file(path / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert torch.equal(tensors[drawing], model.network.released_drawing)


def test_a_shared_codec_may_know_more_than_a_network_of_the_released_layout(tmp_path):
    values = np.random.default_rng(0).uniform(0, 6, 20_000)
    names = ("hsc_shape11", "legacysurvey_ebv")
    shared = ScalarCodec.fit(Scalar(values), modality=names[0], bins=64, modalities=names)
    model = Model.from_preset("tiny", Tokenizer({names[1]: shared.of(names[1])}), layout="aion")
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "m", layout="aion"))
    assert list(again.codecs) == again.network.names == [names[1]]


def test_catalogues_of_ones_own_do_not_go_where_columns_share_a_vocabulary():
    own = CatalogCodec(CatalogCodecConfig(modality="legacysurvey_catalog", count=False))
    with pytest.raises(ValueError, match="the transformer takes 100 code tokens of 3468 ids"):
        Model.from_preset("tiny", Tokenizer({"legacysurvey_catalog": own}), layout="aion")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_checkpoints_of_fewer_bits_are_read(folder, model, fluxes, tmp_path, dtype):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t.to(dtype) for n, t in tensors.items()}, tmp_path / "model.safetensors")
    found = Model.from_pretrained(tmp_path)
    assert {p.dtype for p in found.network.parameters()} == {torch.float32}
    tokens = model.tokenize(fluxes)
    one, other = found.embed(tokens).vectors, model.embed(tokens).vectors
    assert 0 < np.abs(one - other).max() < 0.1


def test_a_network_in_the_released_layout_is_trained_from_ones_own_codecs(catalogs):
    values = np.random.default_rng(0).uniform(0, 6, 20_000)
    z = ScalarCodec.fit(Scalar(values), modality="desi_z", bins=1024)
    shared = Codec.from_pretrained("spectrum", modality="desi_spectrum")
    model = Model.from_preset("tiny", Tokenizer({"desi_z": z}), layout="aion")
    assert model.network.names == ["desi_z"]
    assert model.config.positions == "fixed"
    assert model.config.modalities[0].groups[0].vocab_size == 1025
    assert model.config.modalities[0].id == MODALITY_INFO["tok_z"]["id"]
    two = ScalarCodec.fit(Scalar(values), modality="desi_z", bins=1024, tokens=2)
    for codecs in ({"desi_z": two}, {"desi_spectrum": shared}):
        with pytest.raises(ValueError, match="the transformer takes"):
            Model.from_preset("tiny", Tokenizer(codecs), layout="aion")


def test_wrong_requests(model, fluxes):
    tokens = model.tokenize(fluxes)
    nobody = Tokens(
        {n: t[:0] for n, t in tokens.items()}, {n: m[:0] for n, m in tokens.mask.items()}
    )
    with pytest.raises(ValueError, match="no objects to embed"):
        model.embed(nobody)
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size at least 1; found 'mean' and {size}"):
            model.embed(tokens, batch_size=size)
    for option in ({"n_samples": 2.5}, {"steps": 2.5}, {"top_k": 2.5}, {"seed": "a"}):
        with pytest.raises(TypeError, match=f"{next(iter(option))} must be a whole number"):
            model.generate(tokens, "desi_z", **option)
    with pytest.raises(ValueError, match="guidance is a finite number"):
        model.generate(tokens, "desi_z", guidance="0.5")
    for device in ("tpu", "cuda:99", "meta"):
        with pytest.raises(ValueError, match=f"cannot compute on '{device}'.*this machine has cpu"):
            model.to(device)
    with pytest.raises(ValueError, match=r"'tpu' \(torch does not know it, or is"):
        model.to("tpu")
    assert model.to("cpu") is model


def test_large_batches_are_cut_by_their_tokens(model, monkeypatch):
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(0, 1024, (40, 273)))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[10:] = False
    mask[10:, 0] = True
    tokens = Tokens({"desi_spectrum": ids}, {"desi_spectrum": mask})
    whole = model.embed(tokens)
    every = model.embed(tokens, pooling="tokens")
    seen = []
    monkeypatch.setattr("omnisky.model.embedding._TOKENS", 600)
    monkeypatch.setattr(
        "omnisky.model.embedding._mean", lambda *a: seen.append(len(a[1])) or mean(*a)
    )
    found = model.embed(tokens, batch_size=20)
    assert seen == [2, 2, 2, 2, 20, 12]
    np.testing.assert_allclose(found.vectors, whole.vectors, atol=1e-5)
    np.testing.assert_allclose(
        model.embed(tokens, pooling="tokens").vectors, every.vectors, atol=1e-5
    )
