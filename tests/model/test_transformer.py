"""The transformer: sizes of the released family, padding, isolation, no truncation."""

import copy
import dataclasses

import pytest
import torch

from omnisky.codecs import TokenGroup, Tokens
from omnisky.modalities import UnknownModalityError
from omnisky.model import ModelConfig
from omnisky.model.blocks import DecoderBlock
from omnisky.model.config import ModalityTokens
from omnisky.model.transformer import Selection, Transformer

ALL = 13


def everything(network: Transformer, present: torch.Tensor) -> Selection:
    return Selection(torch.arange(present.shape[1]).expand(len(present), -1), present)


@pytest.fixture(scope="module")
def tokens(star_tokenizer, mini) -> Tokens:
    from omnisky.modalities import Observations

    return star_tokenizer.encode(Observations({**mini.observations, **mini.labels})[:40])


@pytest.mark.parametrize(
    ("preset", "encoder", "decoder"),
    [("aion-base", 84.95e6, 113.29e6), ("aion-large", None, None), ("aion-xlarge", None, None)],
)
def test_full_sizes_are_a_preset_away(preset, encoder, decoder):
    one = ModalityTokens(
        name="tok_z", id=0, groups=(TokenGroup(kind="code", n_tokens=1, vocab_size=1025),)
    )
    with torch.device("meta"):
        network = Transformer(ModelConfig.preset(preset, [one]))
    count = {
        n: sum(p.numel() for p in getattr(network, n).parameters()) for n in ("encoder", "decoder")
    }
    total = sum(p.numel() for p in network.parameters())
    nominal = {"aion-base": 2e8, "aion-large": 7e8, "aion-xlarge": 2.8e9}[preset]
    assert 0.9 * nominal < total < 1.15 * nominal
    if encoder is not None:
        # Exact counts of the released Base model's blocks.
        assert count["encoder"] == pytest.approx(encoder, rel=1e-3)
        assert count["decoder"] == pytest.approx(decoder, rel=1e-3)


@torch.no_grad()
def test_absent_tokens_do_not_matter(star_model, tokens):
    network = star_model.network
    ids, present = network.lay_out(tokens)
    changed = torch.where(present, ids, 1)
    a = network.encode_slots(ids, everything(network, present)).tokens
    b = network.encode_slots(changed, everything(network, present)).tokens
    torch.testing.assert_close(a[present], b[present])


@torch.no_grad()
def test_objects_do_not_see_each_other_and_padding_is_nothing(star_model, tokens):
    network = star_model.network
    ids, present = network.lay_out(tokens)
    visible = everything(network, present)
    asked = Selection(torch.tensor([[0, 3]]).expand(len(ids), -1), torch.ones(len(ids), 2).bool())
    whole = {name: logits for name, _, logits in network(ids, visible, asked)}
    for row in (0, 7):
        one = torch.tensor([row])
        single = network(ids[one], visible[one], asked[one])
        for name, _, logits in single:
            reference = whole[name].unflatten(0, (len(ids), -1))[row]
            torch.testing.assert_close(logits, reference, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_else_is_asked_for_changes_nothing(star_model, tokens):
    # The released AION-1 blocks all decoder self-attention and averages over all targets instead.
    network = star_model.network
    ids, present = network.lay_out(tokens)
    teff = (network.slot_modality == network.names.index("apogee_teff")).nonzero()[:, 0]
    xp = (network.slot_modality == network.names.index("gaia_xp")).nonzero()[:, 0]
    visible = Selection(torch.arange(20, 24).expand(len(ids), -1), present[:, 20:24])

    def ask(slots):
        asked = Selection(slots.expand(len(ids), -1), torch.ones(len(ids), len(slots)).bool())
        return {name: logits for name, _, logits in network(ids, visible, asked)}

    alone, together = ask(teff)["apogee_teff"], ask(torch.cat([xp, teff]))["apogee_teff"]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_asked_tokens_of_one_modality_do_attend_to_each_other(star_model, tokens):
    network = star_model.network
    ids, present = network.lay_out(tokens)
    visible = Selection(torch.arange(20, 24).expand(len(ids), -1), present[:, 20:24])

    def ask(slots):
        asked = Selection(slots.expand(len(ids), -1), torch.ones(len(ids), len(slots)).bool())
        return network.decode_slots(network.encode_slots(ids, visible), asked)[:, 0]

    xp = (network.slot_modality == network.names.index("gaia_xp")).nonzero()[:, 0]
    assert not torch.allclose(ask(xp[:1]), ask(xp[:3]))


@torch.no_grad()
def test_masks_that_hide_nothing_are_left_out(star_model, tokens, monkeypatch):
    network = star_model.network
    ids, _ = network.lay_out(tokens)
    every = torch.ones(len(ids), 3, dtype=torch.bool)
    encoded = network.encode_slots(ids, Selection(torch.arange(20, 23).expand(len(ids), -1), every))
    some = every.clone()
    some[0, 2] = False
    partly = dataclasses.replace(encoded, mask=some)
    xp = network.slots_of("gaia_xp")[:3].expand(len(ids), -1)
    mixed = torch.cat([xp[:, :2], network.slots_of("gaia_g").expand(len(ids), 1)], dim=1)
    seen = []
    forward = DecoderBlock.forward

    def spy(block, x, context, *masks):
        seen.append(tuple(mask is None for mask in masks))
        return forward(block, x, context, *masks)

    monkeypatch.setattr(DecoderBlock, "forward", spy)
    plain = network.decode_slots(encoded, Selection(xp, every))
    network.decode_slots(partly, Selection(mixed, every))
    network.decode_slots(encoded, Selection(xp, some))
    found = network.decode_slots(partly, Selection(xp, some))
    assert seen == [(True, True), (False, False), (False, True), (False, False)]
    # The other objects, whose masks hide nothing, are as without any.
    torch.testing.assert_close(found[1:], plain[1:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_nothing_is_truncated(star_model, tokens):
    vectors, mask = star_model.network.encode(tokens)
    assert vectors.shape[1] == mask.shape[1] == tokens.shape[1]
    assert (vectors[~mask] == 0).all()
    fewer, _ = star_model.network.encode(tokens.drop("gaia_xp"))
    assert fewer.shape[1] == tokens.shape[1] - tokens["gaia_xp"].shape[1]


@torch.no_grad()
def test_dropout_acts_in_training_alone(star_model, tokens):
    network = star_model.network
    network.set_dropout(0.5)
    try:
        assert torch.equal(network.encode(tokens)[0], network.encode(tokens)[0])
        network.train()
        assert not torch.equal(network.encode(tokens)[0], network.encode(tokens)[0])
    finally:
        network.eval()
        network.set_dropout(0.0)


@torch.no_grad()
def test_answers_are_the_moments_of_what_is_predicted(star_model, tokens):
    network, given = star_model.network, tokens.select("gaia_xp", "gaia_bp")
    assert "gaia_xp" not in network.can_ask([])
    assert "gaia_bp" not in network.can_ask(given)
    asks = network.can_ask(given)
    vectors, _, answers = network.encode_and_ask(given, asks)
    assert torch.equal(vectors, network.encode(given)[0])
    assert answers.shape == (len(tokens), 3 * len(asks))
    ids, present = network.lay_out(given)
    slot = (network.slot_modality == network.names.index(asks[1])).nonzero()[:, 0]
    shown = present.any(0).nonzero()[:, 0]
    visible = Selection(shown.expand(len(ids), -1), present[:, shown])
    asked = Selection(slot.expand(len(ids), 1), torch.ones(len(ids), 1).bool())
    ((name, rows, logits),) = network(ids, visible, asked)
    assert name == asks[1]
    values = network.logits[name].groups[0].values[0]
    low, middle, high = torch.quantile(values, values.new_tensor([0.25, 0.5, 0.75]))
    z = ((values - middle) / ((high - low) / 1.349)).clamp(-10, 10) / 3
    chance = logits.double().softmax(-1)[rows.argsort()]
    mean = chance @ z
    spread = (chance * (z - mean[:, None]) ** 2).sum(1)
    torch.testing.assert_close(answers[:, 3].double(), mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answers[:, 5].double(), 0.5 * spread.log(), atol=1e-3, rtol=1e-3)
    nothing = network.encode_and_ask(given, ())[2]
    assert nothing.shape == (len(tokens), 0)


def test_unknown_modalities_and_ids_are_refused(star_model, tokens):
    network = star_model.network
    with pytest.raises(UnknownModalityError, match=r"know desi_spectrum; it knows .* drop\("):
        network.lay_out(Tokens({"desi_spectrum": torch.zeros(2, 1, dtype=torch.long)}))
    with pytest.raises(ValueError, match=r"below 32; found 99\. The first of 2 .* object 1\."):
        network.lay_out(Tokens({"gaia_g": torch.tensor([[31], [32], [99]])}))
    with pytest.raises(ValueError, match="has 1 tokens in this model; found 3"):
        network.lay_out(Tokens({"gaia_g": torch.zeros(2, 3, dtype=torch.long)}))


def test_configurations_are_checked(star_model):
    config = star_model.config
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="must divide"):
        dataclasses.replace(config, num_heads=5)
    with pytest.raises(ValueError, match="must be unique"):
        dataclasses.replace(config, modalities=config.modalities[:1] * 2)
    with pytest.raises(ValueError, match="unknown preset"):
        ModelConfig.preset("huge")


def test_weights_are_read_into_a_network_on_another_device(star_model):
    # A device that every machine has, and whose tensors refuse to meet others.
    network = copy.deepcopy(star_model.network).to("meta")
    network.load_state_dict(network.state_dict())
    assert {b.device.type for b in network.buffers()} == {"meta"}
