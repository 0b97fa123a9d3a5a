"""One step of each scheme against the peer's sampler, with random weights in its own layout."""

import copy

import numpy as np
import pytest
import torch
from aion.fourm.generate import GenerationSampler, init_empty_target_modality
from aion.fourm.generation_utils import cosine_schedule, linear_schedule
from aion.fourm.modality_info import MODALITY_INFO
from aion.model import AION

from omnisky.codecs import Tokens
from omnisky.model import Model
from omnisky.model.generation import Sampling
from omnisky.model.generation.reading import Reading
from omnisky.model.generation.sampler import Sampler, Target, most_confident
from omnisky.model.generation.sampling import draw
from omnisky.pretrained import DOMAINS

CLOSE = {"atol": 1e-4, "rtol": 0}
GIVEN = ("tok_flux_g", "tok_xp_bp", "tok_z")
TARGET = "tok_spectrum_desi"
B = 2


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    domains = sorted((*GIVEN, TARGET))
    closed = {f"{part}_bias": False for part in ("qkv", "proj", "mlp", "norm")}
    sizes = {"dim": 64, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 4}
    kind = {"act_layer": "SiLU", "gated_mlp": True, "qk_norm": True}
    network = AION(config={"domains_in": domains, "domains_out": domains} | closed | sizes | kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(scope="module", params=[None, "aion-0.0.2"])
def model(request, peer, tmp_path_factory):
    """Return ours; the release's sampler, unlike its forward, lets the decoder's slots attend."""
    folder = tmp_path_factory.mktemp("released") / "m"
    peer.save_pretrained(folder)
    return Model.from_pretrained(folder, compat=request.param)


def ids_of(key, seed):
    shape = (B, DOMAINS[key].grid[0] * DOMAINS[key].grid[1])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(DOMAINS[key].vocabulary, shape, generator=generator)


def state(hidden=()):
    """Return the peer's dictionary: some of the spectrum is drawn already."""
    found = {}
    for seed, key in enumerate(GIVEN):
        ids = ids_of(key, seed)
        mask = torch.full(ids.shape, key in hidden)
        found[key] = {"tensor": ids, "input_mask": mask, "target_mask": torch.ones_like(mask)}
    found = init_empty_target_modality(found, MODALITY_INFO, TARGET, B, 273, "cpu")
    drawn = torch.arange(0, 273, 5)
    found[TARGET]["tensor"][:, drawn] = ids_of(TARGET, 9)[:, drawn]
    found[TARGET]["input_mask"][:, drawn] = False
    found[TARGET]["target_mask"][:, drawn] = True
    return found


def ours(model, asked, guidance: float | dict[str, float] = 0.0):
    """Return our logits in the same state, for places (B, M)."""
    sampling = Sampling(n_samples=1, guidance=guidance)
    given = Tokens({DOMAINS[key].names[0]: ids_of(key, i) for i, key in enumerate(GIVEN)})
    reading = Reading(model, given)
    branches = [(b, reading._read(0, b, sampling)) for b in sampling.branches(reading.given)]
    table = (reading._ids, reading._known)
    sampler = Sampler(sampling, branches, table, np.arange(B), slice(0, 1))
    target = Target(DOMAINS[TARGET].names[0], 0, None)
    slots = model.network.slots_of(target.name)
    drawn = torch.arange(0, 273, 5)
    sampler.ids[..., slots[drawn]] = ids_of(TARGET, 9)[:, None, drawn]
    sampler.known[..., slots[drawn]] = True
    sampler.alike = False
    asked = asked[:, None]
    there = torch.ones_like(asked, dtype=torch.bool)
    rows = torch.arange(asked.numel())
    ((part, logits),) = sampler._logits(target, asked, there, rows)
    assert torch.equal(part, rows)
    return logits.reshape(*asked.shape[::2], -1)


@torch.no_grad()
def test_one_step_of_roar(peer, model):
    theirs, places = GenerationSampler(peer).forward_enc_dec_roar_batched(
        state(), TARGET, num_select=20, seed=1
    )
    assert places.shape == (B, 20)
    torch.testing.assert_close(ours(model, places), theirs, **CLOSE)


@torch.no_grad()
def test_one_step_of_maskgit(peer, model):
    theirs, places = GenerationSampler(peer).forward_enc_dec_maskgit_batched(state(), TARGET)
    assert places.shape == (B, 273 - 55)
    torch.testing.assert_close(ours(model, places), theirs, **CLOSE)


@torch.no_grad()
def test_autoregression_from_the_first_token_to_the_last(peer, model, monkeypatch):
    """The peer's scheme is for sequences only, so its network is led through a grid by hand."""
    given, target = ("tok_flux_g", "tok_z"), "tok_xp_bp"
    found, logits_of = [], Sampler._logits

    def record(self, *args):
        for part, logits in logits_of(self, *args):
            found.append(logits)
            yield part, logits

    monkeypatch.setattr(Sampler, "_logits", record)
    tokens = Tokens({DOMAINS[key].names[0]: ids_of(key, i) for i, key in enumerate(given)})
    name = DOMAINS[target].names[0]
    how = {"method": "autoregressive", "temperature": 0.0, "n_samples": 1}
    drawn = model.generate(tokens, name, **how).tokens[name]
    assert drawn.shape == (B, len(found)) == (B, 55)
    asked = {}
    for seed, key in enumerate(given):
        mask = torch.zeros(ids_of(key, seed).shape, dtype=torch.bool)
        asked[key] = {"tensor": ids_of(key, seed), "input_mask": mask, "target_mask": ~mask}
    asked = init_empty_target_modality(asked, MODALITY_INFO, target, B, 55, "cpu")
    sampler = GenerationSampler(peer)
    for place, mine in enumerate(found):
        asked[target]["target_mask"][:] = True
        asked[target]["target_mask"][:, place] = False
        theirs, places = sampler.forward_enc_dec_maskgit_batched(copy.deepcopy(asked), target)
        assert (places == place).all()
        torch.testing.assert_close(mine, theirs[:, 0], **CLOSE)
        assert torch.equal(drawn[:, place], mine.argmax(1))
        asked[target]["tensor"][:, place] = drawn[:, place]
        asked[target]["input_mask"][:, place] = False


def captured(sampler, monkeypatch, name):
    """Record the logits that a step draws from."""
    found = []
    method = getattr(sampler, name)

    def record(logits, *args, **kwargs):
        found.append(logits.clone())
        return method(logits, *args, **kwargs)

    monkeypatch.setattr(sampler, name, record)
    return found


@torch.no_grad()
def test_one_guided_step(peer, model, monkeypatch):
    sampler = GenerationSampler(peer)
    found = captured(sampler, monkeypatch, "select_tokens_batched")
    sampler.guided_maskgit_step_batched(
        state(), TARGET, 5, 1.0, 0.0, 0.0, conditioning=list(GIVEN), guidance_scale=2.5
    )
    places = torch.tensor([i for i in range(273) if i % 5]).expand(B, -1)
    # Their scale is 1 + ours.
    torch.testing.assert_close(ours(model, places, guidance=1.5), found[0], **CLOSE)


@torch.no_grad()
def test_one_step_of_weighted_conditions(peer, model, monkeypatch):
    sampler = GenerationSampler(peer)
    found = captured(sampler, monkeypatch, "select_tokens_batched")
    weighted = {"tok_flux_g": 1.5, "tok_xp_bp": -0.5}
    others = [state(hidden=set(weighted) - {key}) for key in weighted]
    sampler.multi_guided_maskgit_step_batched(
        state(hidden=weighted), others, list(weighted.values()), TARGET, 5, 1.0, 0.0, 0.0
    )
    places = torch.tensor([i for i in range(273) if i % 5]).expand(B, -1)
    guidance = {DOMAINS[key].names[0]: weight for key, weight in weighted.items()}
    torch.testing.assert_close(ours(model, places, guidance), found[0], **CLOSE)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 0.0), (0.7, 4, 0.0), (1.5, 0, 0.6)]
)
def test_the_same_tokens_are_kept(peer, monkeypatch, temperature, top_k, top_p):
    sampler = GenerationSampler(peer)
    torch.manual_seed(3)
    logits = 3 * torch.randn(B, 30, 50)
    drawn = []
    draw_theirs = sampler.sample_tokens_batched

    def record(*args, **kwargs):
        drawn.append(draw_theirs(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(sampler, "sample_tokens_batched", record)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    _, theirs = sampler.select_tokens_batched(copy.deepcopy(logits), 7, **settings)
    ((samples, probabilities),) = drawn
    sampling = Sampling(temperature=temperature, top_k=top_k or None, top_p=top_p or None)
    _, chances = draw(logits.flatten(0, 1), torch.zeros(B * 30, 1), sampling)
    mine = chances.gather(1, samples.reshape(-1, 1)).reshape(B, 30)
    torch.testing.assert_close(mine, probabilities, **CLOSE)
    kept = most_confident(mine.log()[:, None], 7)[:, 0]
    assert torch.equal(kept, theirs.sort(1).values)


def test_aion_defect_confidence_at_temperature_0(peer):
    logits = 3 * torch.randn(1, 8, 50)
    _, theirs = GenerationSampler(peer).sample_tokens_batched(logits, temperature=0.0)
    _, chances = draw(logits[0], torch.zeros(8, 1), Sampling(temperature=0.0))
    assert (theirs == 1).all()
    assert len(chances.amax(1).unique()) == 8


@pytest.mark.parametrize("tokens", [1, 10, 55, 64, 273, 576])
def test_steps_are_those_of_the_peer(tokens):
    for steps in range(1, min(tokens, 60) + 1):
        theirs = cosine_schedule(steps, tokens)
        mine = Sampling(method="maskgit", steps=steps).counts(tokens)
        # Its rounding may go below zero.
        if (theirs >= 0).all():
            assert mine == [int(count) for count in theirs if count]
        linear = Sampling(steps=steps, schedule="linear").counts(tokens)
        assert linear == linear_schedule(steps, tokens).tolist()
