"""AION-1's checkpoints against the peer's own code, with random weights."""

import json
import re
import shutil

import pytest
import torch
from aion.fourm.fm import FourM
from aion.fourm.modality_info import MODALITY_INFO
from aion.modalities import DESISpectrum, Z
from aion.model import AION
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from omnisky.codecs import Tokens
from omnisky.model import Model
from omnisky.model.aion import released_modalities, write_released
from omnisky.model.config import ModelConfig
from omnisky.model.positions import fixed_positions
from omnisky.model.transformer import Selection, Transformer
from omnisky.pretrained import DOMAINS
from omnisky.storage import CheckpointError

CLOSE = {"atol": 1e-4, "rtol": 0}
COMPAT = "aion-0.0.2"


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    closed = {f"{part}_bias": False for part in ("qkv", "proj", "mlp", "norm")}
    domains = sorted(MODALITY_INFO)
    network = AION(
        config={
            "domains_in": domains,
            "domains_out": domains,
            "dim": 64,
            "encoder_depth": 2,
            "decoder_depth": 2,
            "num_heads": 4,
            "act_layer": "SiLU",
            "gated_mlp": True,
            "qk_norm": True,
            **closed,
        }
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


@pytest.fixture(scope="module")
def folder(peer, tmp_path_factory):
    path = tmp_path_factory.mktemp("released")
    peer.save_pretrained(path)
    return path


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(1)

    def ids(key, low=0):
        shape = (3, len(positions_of(key)))
        return torch.randint(low, DOMAINS[key].vocabulary, shape, generator=generator)

    keys = ("tok_spectrum_desi", "tok_flux_g", "tok_image", "tok_xp_bp")
    return {**{key: ids(key) for key in keys}, "catalog": ids("catalog", 204)}


def positions_of(key):
    grid = DOMAINS[key].grid
    return range(grid[0] if len(grid) == 1 else grid[0] * grid[1])


def tokens_of(given, hidden=()):
    hidden = dict(hidden)
    ids = {DOMAINS[key].names[0]: tensor for key, tensor in given.items()}
    masks = {
        DOMAINS[key].names[0]: ~hidden.get(key, torch.zeros_like(tensor).bool())
        for key, tensor in given.items()
    }
    return Tokens(ids, masks)


def logits_of(model, given, keys):
    network = model.network
    slots = torch.cat([network.slots_of(DOMAINS[key].names[0]) for key in keys])
    asked = Selection(slots.expand(3, -1), torch.ones(3, len(slots), dtype=torch.bool))
    encoded = network._encode_given(tokens_of(given))
    found = network.predict(network.decode_slots(encoded, asked), asked)
    return {name: logits.reshape(3, -1, logits.shape[-1]) for name, _, logits in found}


@torch.no_grad()
def test_encode_is_the_peers(peer, folder, given):
    model = Model.from_pretrained(folder)
    theirs = peer.encode(given, num_encoder_tokens=5000)
    encoded = model.network._encode_given(tokens_of(given))
    places, first = {}, 0
    for key, tensor in given.items():
        places[key] = slice(first, first + tensor.shape[1])
        first += tensor.shape[1]
    for name, here in model.network.slices(tokens_of(given)).items():
        key = next(k for k in given if DOMAINS[k].names[0] == name)
        torch.testing.assert_close(encoded.context[:, here], theirs[:, places[key]], **CLOSE)


@torch.no_grad()
def test_aion_defect_decoder_attention(peer, folder, given, monkeypatch):
    wanted = {"tok_spectrum_desi": DESISpectrum, "tok_z": Z}
    given = {key: given[key] for key in ("tok_flux_g", "tok_xp_bp")}
    released = peer(given, target_modality=list(wanted.values()))
    compat = logits_of(Model.from_pretrained(folder, compat=COMPAT), given, wanted)
    right = logits_of(Model.from_pretrained(folder), given, wanted)
    alone = logits_of(Model.from_pretrained(folder), given, ["tok_z"])
    # What the peer was trained with: all slots of the same modality attend to each other.
    monkeypatch.setattr(
        FourM, "adapt_decoder_attention_mask", lambda _, __, mod: mod[:, None] != mod[..., None]
    )
    mended = peer(given, target_modality=list(wanted.values()))
    for key in wanted:
        name = DOMAINS[key].names[0]
        torch.testing.assert_close(compat[name], released[key], **CLOSE)
        torch.testing.assert_close(right[name], mended[key], **CLOSE)
        assert (right[name] - released[key]).abs().max() > 0.01
    torch.testing.assert_close(right["desi_z"], alone["desi_z"], **CLOSE)


@torch.no_grad()
def test_aion_defect_first_256_tokens_and_unmasked_rows(peer, folder, given):
    given = {key: given[key] for key in ("tok_spectrum_desi", "tok_flux_g")}
    hidden = {"tok_flux_g": torch.tensor([[True], [False], [False]])}
    released = peer.encode(given, input_mask=hidden).mean(1)
    compat, right = (Model.from_pretrained(folder, compat=c) for c in (COMPAT, None))
    ours = compat.embed(tokens_of(given, hidden)).vectors
    torch.testing.assert_close(torch.from_numpy(ours), released, **CLOSE)
    whole = right.embed(tokens_of(given, hidden), pooling="tokens")
    assert whole.vectors.shape == (3, 274, 64)
    assert whole.valid.sum(1).tolist() == [273, 274, 274]
    # The end of the spectrum and the flux count.
    given["tok_flux_g"] = (given["tok_flux_g"] + 1) % 1024
    again = compat.embed(tokens_of(given, hidden)).vectors
    assert (again == ours).all()
    assert (
        right.embed(tokens_of(given), pooling="tokens").vectors[:, -1] != whole.vectors[:, -1]
    ).all()


@torch.no_grad()
def test_the_peer_reads_what_we_write(peer, folder, given, tmp_path):
    model = Model.from_pretrained(folder)
    write_released(model.network, tmp_path / "ours")
    again = AION.from_pretrained(tmp_path / "ours").eval()
    close = dict(num_encoder_tokens=5000)
    torch.testing.assert_close(again.encode(given, **close), peer.encode(given, **close), **CLOSE)
    theirs = json.loads((folder / "config.json").read_text())
    mine = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {k: v for k, v in mine.items() if theirs.get(k) != v} == {"mlp_ratio": 4.0}


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("aion-base", 314_255_616),
        ("aion-large", 859_650_048),
        ("aion-xlarge", 3_130_772_480),
    ],
)
def test_sizes_are_the_published_ones(preset, published):
    config = ModelConfig.preset(preset, released_modalities())
    config = ModelConfig(**{**vars(config), "positions": "fixed"})
    with torch.device("meta"):
        network = Transformer(config)
    count = sum(p.numel() for p in network.parameters())
    # The decoder's own token vectors, which no grid needs.
    assert count + 50_083 * config.dim == published


def test_domains_are_those_of_the_release():
    assert set(DOMAINS) == set(MODALITY_INFO)
    for modality, key in zip(released_modalities(), DOMAINS, strict=True):
        assert modality.id == MODALITY_INFO[key]["id"]
        assert modality.groups[0].vocab_size == MODALITY_INFO[key]["vocab_size"]


def test_redshifts_of_both_surveys_are_one_domain(folder):
    model = Model.from_pretrained(folder)
    z = torch.tensor([[5], [6]])
    one, other = (model.embed(Tokens({name: z})).vectors for name in ("desi_z", "sdss_z"))
    assert (one == other).all()
    with pytest.raises(ValueError, match="one and the same"):
        model.embed(Tokens({"desi_z": z, "sdss_z": z}))


def test_without_codecs_only_tokens_are_taken(folder):
    with pytest.raises(ValueError, match="takes tokens only"):
        _ = Model.from_pretrained(folder).tokenizer


def altered(folder, tmp_path, change=None, **config):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    if change:
        change(tensors)
    save_file(tensors, copy / "model.safetensors")
    found = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**found, **config}))
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.1.norm1.weight"), "lacks decoder.1.norm1.weight"),
        (lambda t: t.update(extra=torch.ones(2)), "no AION-1 network has: extra"),
        (lambda t: t["encoder.0.norm1.bias"].fill_(1), "encoder.0.norm1.bias"),
        (lambda t: t["encoder_embeddings.tok_image.pos_emb"].fill_(0), "tok_image.pos_emb"),
        (lambda t: t.update(mask_token=torch.ones(1, 1, 3)), "mask_token has shape"),
        (
            lambda t: t.update(mask_token=t["mask_token"] * float("nan")),
            "mask_token holds numbers that are not finite",
        ),
    ],
)
def test_another_network_is_refused(folder, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        Model.from_pretrained(altered(folder, tmp_path, change))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gated_mlp": False}, "gated_mlp"),
        ({"num_register_tokens": 4}, "num_register_tokens"),
        ({"domains_in": ["tok_x"], "domains_out": ["tok_x"]}, "unknown domains tok_x"),
    ],
)
def test_another_configuration_is_refused(folder, tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message):
        Model.from_pretrained(altered(folder, tmp_path, **config))


def test_blocks_beyond_the_depth_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"encoder blocks up to number 1, .*encoder_depth 1"):
        Model.from_pretrained(altered(folder, tmp_path, encoder_depth=1))


def test_of_many_strange_tensors_some_are_named(folder, tmp_path):
    def change(tensors):
        tensors.update({f"extra.{i}": torch.ones(2) for i in range(9)})

    with pytest.raises(CheckpointError, match=r"has: extra\.0, extra\.1, extra\.2 and 6 more; is"):
        Model.from_pretrained(altered(folder, tmp_path, change))


def with_both_names(tensors):
    """Give each modality vector twice, as a state dict of the release's code has it."""
    for name in [name for name in tensors if name.endswith("mod_emb")]:
        side, _, rest = name.partition("_embeddings.")
        other = {"encoder": "decoder", "decoder": "encoder"}[side]
        tensors[f"{other}_embeddings.{rest}"] = tensors[name].clone()


def test_modality_vectors_may_be_there_under_both_names(folder, given, tmp_path):
    copy = altered(folder, tmp_path, with_both_names)
    assert sum(name.endswith("mod_emb") for name in shapes_in(copy)) == 2 * len(DOMAINS)
    one, other = (Model.from_pretrained(f).embed(tokens_of(given)).vectors for f in (folder, copy))
    assert (one == other).all()


def test_modality_vectors_that_differ_are_refused(folder, tmp_path):
    def change(tensors):
        with_both_names(tensors)
        tensors["encoder_embeddings.tok_image.mod_emb"] += 1

    with pytest.raises(
        CheckpointError, match=r"decoder_embeddings\.tok_image\.mod_emb and .* differ"
    ):
        Model.from_pretrained(altered(folder, tmp_path, change))


def shapes_in(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def test_all_731_tensors_of_base_are_read_and_written_again(root, tmp_path):
    """The list is of the release's own code, both names of modality vectors included."""
    listing = root.parent / "shared" / "reference" / "aion_base_state_dict.txt"
    if not listing.is_file():
        pytest.skip(f"no list of the released network's tensors at {listing}")
    _, config, _, *lines = listing.read_text().splitlines()
    # Heads of 2 numbers instead of 64.
    narrow = {768: 24, 2304: 72, 1536: 48, 2048: 64, 64: 2}
    shapes = {}
    for name, shape, *_ in (line.split("\t") for line in lines):
        shapes[name] = tuple(narrow.get(int(n), int(n)) for n in re.findall(r"\d+", shape))
    assert len(shapes) == 731
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = torch.randn(shape, generator=generator)
        owner, _, last = name.rpartition(".")
        if last == "bias" and "norm" in owner:
            tensors[name].zero_()
        elif last == "pos_emb":
            grid = DOMAINS[owner.partition(".")[2]].grid
            tensors[name] = fixed_positions((512,) if len(grid) == 1 else grid, 24)[None]
        elif last == "mod_emb":
            tensors[name] = tensors.get(name.replace("decoder", "encoder"), tensors[name])
    (tmp_path / "base").mkdir()
    save_file({n: t.clone() for n, t in tensors.items()}, tmp_path / "base/model.safetensors")
    described = {**json.loads(config.removeprefix("# ")), "dim": 24}
    (tmp_path / "base/config.json").write_text(json.dumps(described))
    model = Model.from_pretrained(tmp_path / "base")
    assert model.config.encoder_depth == model.config.decoder_depth == 12
    model.save_pretrained(tmp_path / "ours", layout="aion")
    once = {name for name in shapes if name.startswith("encoder") and name.endswith("mod_emb")}
    assert shapes_in(tmp_path / "ours") == {n: s for n, s in shapes.items() if n not in once}


def test_truncated_and_pickled_files_are_refused(folder, tmp_path):
    copy = altered(folder, tmp_path)
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or pickled"):
        Model.from_pretrained(copy)
    (copy / "model.safetensors").rename(copy / "model.bin")
    with pytest.raises(FileNotFoundError, match="never loaded"):
        Model.from_pretrained(copy)


def test_compat_is_for_released_checkpoints(folder):
    with pytest.raises(ValueError, match="compat"):
        Model.from_pretrained("nano", compat=COMPAT)
    with pytest.raises(ValueError, match="compat"):
        Model.from_pretrained(folder, compat="aion-9")


def test_more_modalities_join_a_loaded_checkpoint(folder, star_tokenizer, given):
    from omnisky.codecs import Tokenizer

    codecs = {n: c for n, c in star_tokenizer.codecs.items() if n != "gaia_parallax"}
    model = Model.from_pretrained(folder)
    larger = model.extended(Tokenizer(codecs))
    one, other = (m.embed(tokens_of(given)).vectors for m in (model, larger))
    assert (one == other).all()
    assert set(larger.network.names) - set(model.network.names) == set(codecs)
