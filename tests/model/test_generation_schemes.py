"""Schemes of generation against plain slow ones: one object, one sample, one step at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st
from torch.nn import functional as F

from omnisky.codecs import Tokens
from omnisky.model.generation import Sampling
from omnisky.model.generation.reading import Reading
from omnisky.model.generation.sampler import Sampler, Target, most_confident
from omnisky.model.generation.sampling import draw, filtered
from omnisky.model.transformer import Encoded, Selection

GIVEN = ("gaia_g", "gaia_bp", "twomass_j")
TARGETS = ("apogee_teff", "gaia_xp")
N = 2


@pytest.fixture(scope="module")
def tokens(star_model, mini):
    """Return photometry of five stars; the second lacks a band, the fourth two."""
    found = star_model.tokenize(mini.observations.select(*GIVEN)[:5])
    masks = {name: mask.clone() for name, mask in found.mask.items()}
    masks["gaia_bp"][1] = masks["gaia_bp"][3] = masks["twomass_j"][3] = False
    return Tokens(dict(found), masks)


class Plain:
    """Generate one sample of one object, reading everything anew for each token group drawn."""

    def __init__(self, model, tokens, row, sample, sampling):
        self.network, self.sampling = model.network, sampling
        self.ids, known = model.network.lay_out(tokens[[row]])
        self.given = tuple(tokens)
        # Slots in the order in which they became known, with the step they did so.
        self.known = [(slot, 0) for slot in known[0].nonzero()[:, 0].tolist()]
        self.steps = 0
        self.noises = Sampler(sampling, [], (self.ids, known), np.array([row]), slice(0, N))
        self.sample = sample

    def noise(self, target, purpose, width):
        return self.noises._noise(target, purpose, width)[0, self.sample]

    def logits(self, slots, branch):
        hidden = [s for name in branch.hidden for s in self.network.slots_of(name).tolist()]
        known = [(slot, step) for slot, step in self.known if slot not in hidden]
        asked = Selection(torch.tensor([slots]), torch.ones(1, len(slots), dtype=torch.bool))
        if not known:
            context = torch.zeros(1, 1, self.network.config.dim)
            encoded = Encoded(context, context, torch.ones(1, 1, dtype=torch.bool))
            decoded = self.deaf(asked)
        else:
            encoded = self.encode(known)
            decoded = self.network.decode_slots(encoded, asked)
        found = {}
        for _, rows, logits in self.network.predict(decoded, asked):
            found |= {slots[int(r)]: one for r, one in zip(rows, logits, strict=True)}
        return found

    def encode(self, known):
        slots = torch.tensor([[slot for slot, _ in known]])
        visible = Selection(slots, torch.ones_like(slots, dtype=torch.bool))
        if self.sampling.context == "fresh":
            return self.network.encode_slots(self.ids, visible)
        # Tokens hear those of their own step and before.
        step = torch.tensor([step for _, step in known])
        mask = step[:, None] >= step[None, :]
        place = self.network.place_vectors()[slots]
        x = self.network.embed_slots(self.ids, visible) + place
        for block in self.network.encoder:
            x = block(x, mask[None])
        x = self.network.encoder_norm(x)
        return Encoded(x, self.network.decoder_proj_context(x) + place, visible.mask)

    def deaf(self, asked):
        """Decode with nothing to hear."""
        x = self.network.mask_token + self.network.place_vectors()[asked.slots]
        for block in self.network.decoder:
            x = x + block.self_attn(x, None, block.norm1)
            x = x + block.mlp(block.norm2(x))
        return self.network.decoder_norm(x)

    def mixed(self, slots):
        branches = self.sampling.branches(self.given)
        every = [(b.weight, self.logits(slots, b)) for b in branches]
        return {slot: sum(w * found[slot] for w, found in every) for slot in slots}

    def draw(self, slot, logits, uniform):
        logits = filtered(logits[None], self.sampling)[0]
        chance = torch.softmax(logits / (self.sampling.temperature or 1), 0)
        if self.sampling.temperature == 0:
            self.ids[0, slot] = int(chance.argmax())
        else:
            total = chance.double().cumsum(0)
            self.ids[0, slot] = int((total <= float(uniform) * total[-1]).sum())
        return float(chance[self.ids[0, slot]].log()) + np.log(len(chance))

    def run(self, number, name):
        """Draw one target."""
        target, slots = Target(name, number, None), self.network.slots_of(name).tolist()
        modality = next(m for m in self.network.config.modalities if m.name == name)
        ordinal = sum(g.n_tokens for g in modality.groups if g.kind == "ordinal")
        order = list(range(len(slots)))
        if self.sampling.method == "roar" and ordinal < len(slots):
            codes = self.noise(target, 0, len(slots))[ordinal:].argsort() + ordinal
            order = [*order[:ordinal], *codes.tolist()]
        every = self.sampling.method == "maskgit"
        for step, count in enumerate(self.sampling.counts(len(slots))):
            uniform = self.noise(target, 1 + step * every, len(slots))
            asked = order if every else order[:count]
            logits = self.mixed([slots[i] for i in asked])
            sure = {i: self.draw(slots[i], logits[slots[i]], uniform[i]) for i in asked}
            kept = sorted(asked, key=lambda i: -sure[i])[:count]
            order = [i for i in order if i not in kept]
            self.steps += 1
            self.known += [(slots[i], self.steps) for i in kept]
        return self.ids[0, slots]


HOWS = [
    {},
    {"steps": 1},
    {"steps": 3, "context": "append"},
    {"method": "maskgit", "steps": 4},
    {"method": "maskgit", "steps": 3, "context": "append", "temperature": 0.0},
    {"method": "maskgit", "schedule": "linear", "steps": 3, "top_k": 5},
    {"method": "autoregressive", "context": "append", "top_p": 0.8},
    {"steps": 3, "guidance": 1.5, "temperature": 0.7},
    {"steps": 3, "guidance": 1.5, "context": "append"},
    {"steps": 3, "guidance": {"gaia_g": 1.2, "gaia_bp": -0.5}},
    {
        "steps": 3,
        "guidance": {"gaia_g": 1.0, "gaia_bp": 1.0, "twomass_j": 0.5},
        "schedule": "cosine",
    },
]


@torch.no_grad()
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_what_is_drawn_is_what_a_plain_loop_draws(star_model, tokens, how):
    found = star_model.generate(tokens, TARGETS, n_samples=N, seed=3, **how)
    sampling = Sampling(n_samples=N, seed=3, **how)
    # The whole one, one that lacks a band, one that lacks two.
    for row in (0, 1, 3):
        for sample in range(N):
            plain = Plain(star_model, tokens, row, sample, sampling)
            for number, name in enumerate(TARGETS):
                ids = plain.run(number, name)
                assert torch.equal(found.tokens[name][sample * 5 + row], ids), (row, sample, name)


@pytest.mark.parametrize("context", ["fresh", "append"])
def test_a_reading_answers_as_generate_does(star_model, tokens, context):
    reading = star_model.read(tokens)
    for target in (*TARGETS, "apogee_fe_h"):
        for guidance in (0.0, {"gaia_g": 2.0}):
            how = {"n_samples": 3, "steps": 3, "context": context, "guidance": guidance}
            kept = reading.generate(target, **how)
            anew = star_model.generate(tokens, target, **how)
            assert torch.equal(kept.tokens[target], anew.tokens[target])
    assert len(reading) == 5


def test_a_further_target_does_not_read_again(star_model, tokens, monkeypatch):
    reading = star_model.read(tokens)
    first = reading.generate("apogee_teff", n_samples=2)
    monkeypatch.setattr(star_model.network, "embed_slots", None)
    reading.generate("apogee_logg", n_samples=4)
    again = reading.generate("apogee_teff", n_samples=2)["apogee_teff"]
    np.testing.assert_array_equal(first["apogee_teff"].samples, again.samples)


def test_samples_do_not_depend_on_how_the_work_is_cut(star_model, tokens, monkeypatch):
    how = {"n_samples": 5, "steps": 3, "method": "maskgit"}
    whole = star_model.generate(tokens, TARGETS, **how)
    monkeypatch.setattr("omnisky.model.generation.reading._NUMBERS", 5000)
    cut = star_model.generate(tokens, TARGETS, **how)
    for name in TARGETS:
        assert torch.equal(whole.tokens[name], cut.tokens[name])
    np.testing.assert_allclose(
        whole["apogee_teff"].probabilities, cut["apogee_teff"].probabilities, atol=1e-6
    )


def test_objects_have_their_own_random_numbers(star_model, tokens):
    same = Tokens({n: t[[0, 0, 0]] for n, t in tokens.items()})
    found = star_model.generate(same, "gaia_xp", n_samples=2, steps=2).tokens["gaia_xp"]
    assert len({tuple(row.tolist()) for row in found}) == 6


def test_no_guidance_is_guidance_of_nothing(star_model, tokens):
    """All weights 1 on the only condition, and strength 0, are the network itself."""
    alone = tokens.select("gaia_g")
    drawn = [
        star_model.generate(alone, "gaia_xp", n_samples=2, steps=3, guidance=g).tokens["gaia_xp"]
        for g in (0.0, {"gaia_g": 1.0}, {"gaia_g": 1.5})
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    strength = star_model.generate(alone, "gaia_xp", n_samples=2, steps=3, guidance=0.5)
    assert torch.equal(strength.tokens["gaia_xp"], drawn[2])


@examples(
    st.integers(1, 600),
    st.integers(1, 700),
    st.sampled_from(["geometric", "linear", "cosine"]),
    st.sampled_from(["roar", "maskgit"]),
)
def test_steps_draw_every_token_once(tokens_left, steps, schedule, method):
    counts = Sampling(method=method, steps=steps, schedule=schedule).counts(tokens_left)
    assert sum(counts) == tokens_left
    assert min(counts) >= 1
    assert len(counts) <= steps
    if schedule != "cosine":
        assert len(counts) == min(steps, tokens_left)


@examples(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12),
    st.integers(1, 12),
    st.floats(0.01, 1),
)
def test_filters_keep_the_most_probable(values, top_k, top_p):
    logits = torch.tensor([values])
    kept = filtered(logits, Sampling(top_k=top_k)).isfinite()[0]
    assert kept.sum() >= min(top_k, len(values))
    assert logits[0][kept].min() >= torch.cat([logits[0][~kept], torch.tensor([-99.0])]).max()
    kept = filtered(logits, Sampling(top_p=top_p)).isfinite()[0]
    chance = logits.double().softmax(1)[0]
    assert chance[kept].sum() >= top_p - 1e-5
    # Without the least of them, they would not reach it.
    assert chance[kept].sum() - chance[kept].min() <= top_p + 1e-5


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0], [3.0, 0.0, -torch.inf, -torch.inf]])
    uniform = torch.linspace(0, 1 - 1e-6, 5001).expand(2, -1)
    ids, chances = draw(logits, uniform, Sampling(temperature=2.0))
    share = F.one_hot(ids, 4).double().mean(1)
    torch.testing.assert_close(share.float(), torch.softmax(logits / 2, 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(chances, torch.softmax(logits / 2, 1))


def test_the_most_confident_are_kept_in_order_of_place():
    confidence = torch.tensor([[[0.1, 0.9, -torch.inf, 0.5]]])
    assert most_confident(confidence, 2).tolist() == [[[1, 3]]]
    assert most_confident(confidence, 4).tolist() == [[[0, 1, 2, 3]]]


# Of processors that have none, and about something else.
@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
@pytest.mark.parametrize("context", ["fresh", "append"])
def test_bfloat16_draws_too(star_model, tokens, context):
    import copy

    from omnisky.model import Model

    model = Model(copy.deepcopy(star_model.network), star_model.tokenizer).cast("bfloat16")
    how = {"n_samples": 2, "steps": 3, "context": context}
    half = model.generate(tokens, ["apogee_teff", "gaia_xp"], **how)
    full = star_model.generate(tokens, ["apogee_teff", "gaia_xp"], **how)
    np.testing.assert_allclose(
        half["apogee_teff"].probabilities, full["apogee_teff"].probabilities, atol=5e-3
    )
    assert np.isfinite(half["gaia_xp"].samples).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": "nucleus"}, "method must be one of roar, maskgit, autoregressive"),
        ({"context": "cached"}, "context must be one of fresh, append; found 'cached'"),
        ({"schedule": "onex"}, "schedule must be one of"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"temperature": -1.0}, "temperature must lie from 0.001 to 1000, or be 0"),
        ({"temperature": float("nan")}, "temperature must lie from 0.001 to 1000"),
        ({"temperature": 1e-40}, "temperature must lie from 0.001 to 1000"),
        ({"guidance": 1e39}, "guidance is a finite number up to 1000"),
        ({"guidance": True}, "guidance is a finite number up to 1000"),
        ({"seed": -1}, "seed at least 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must lie above 0"),
        ({"top_p": 1.1}, "top_p must lie above 0"),
        ({"temperature": 0.0, "top_k": 3}, "top_k and top_p do nothing"),
        ({"method": "autoregressive", "steps": 4}, "one token a step"),
        ({"method": "autoregressive", "schedule": "linear"}, "one token a step"),
        ({"guidance": float("inf")}, "guidance is a finite number"),
        ({"guidance": {}}, "guidance is a finite number"),
        (
            {"guidance": {"gaia_rp": 2.0}},
            "weights of gaia_rp, which is not given; given are gaia_g",
        ),
    ],
)
def test_bad_options_are_refused(star_model, tokens, how, message):
    with pytest.raises(ValueError, match=message):
        star_model.generate(tokens, "apogee_teff", **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temperature": "1"}, "temperature must be a number; found '1'"),
        ({"temperature": None}, "temperature must be a number; found None"),
        ({"top_p": "0.9"}, "top_p must be a number; found '0.9'"),
        ({"seed": True}, "seed must be a whole number; found True"),
        ({"n_samples": 2.0}, "n_samples must be a whole number"),
    ],
)
def test_options_of_other_types_are_refused(star_model, tokens, how, message):
    with pytest.raises(TypeError, match=message):
        star_model.generate(tokens, "apogee_teff", **how)


def test_extreme_temperatures_and_weights_give_numbers(star_model, tokens):
    for how in ({"temperature": 1e-3}, {"temperature": 1e3}, {"guidance": -1e3}):
        found = star_model.generate(tokens, ["apogee_teff", "gaia_xp"], n_samples=2, **how)
        assert np.isfinite(found["apogee_teff"].mean).all()
        assert np.isfinite(found["gaia_xp"].samples).all()


def test_unknown_options_and_empty_batches_are_refused(star_model, tokens):
    with pytest.raises(TypeError, match="no option stesp; it has n_samples, method, steps"):
        star_model.generate(tokens, "apogee_teff", stesp=3)
    with pytest.raises(ValueError, match="there are no objects"):
        star_model.read(tokens[slice(0, 0)])


def test_without_a_codec_tokens_are_returned(star_model, tokens):
    from omnisky.model import Model

    bare = Model(star_model.network, None)
    found = Reading(bare, tokens).generate("apogee_teff", n_samples=2)
    same = star_model.generate(tokens, "apogee_teff", n_samples=2)
    assert torch.equal(found.tokens["apogee_teff"], same.tokens["apogee_teff"])
    assert list(found) == []
    with pytest.raises(KeyError, match=r"no codec of apogee_teff: its samples are in \.tokens"):
        found["apogee_teff"]
