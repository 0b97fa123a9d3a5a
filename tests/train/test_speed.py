import pytest
import torch
from masked_objective import CONFIG, MaskedObjective
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.transformer import Selection, Transformer
from omnisky.train.speed import matmul_flops_per_second, training_flops, work_of


def all_of(network, seen, wanted, n_objects=4):
    """Return selections of one modality whole and of another."""
    slots = [network.slots_of(name).expand(n_objects, -1) for name in (seen, wanted)]
    return [Selection(s, torch.ones_like(s).bool()) for s in slots]


def test_the_formula_counts_what_is_computed():
    groups = {"image": TokenGroup(kind="code", n_tokens=36, vocab_size=200)}
    groups["spectrum"] = TokenGroup(kind="code", n_tokens=25, vocab_size=100)
    config = ModelConfig(
        dim=64,
        encoder_depth=3,
        decoder_depth=2,
        num_heads=2,
        modalities=tuple(
            ModalityTokens(name=n, id=i, groups=(g,)) for i, (n, g) in enumerate(groups.items())
        ),
    )
    network = Transformer(config)
    visible, asked = all_of(network, "image", "spectrum")
    ids = torch.zeros(4, 61, dtype=torch.long)
    for module in network.modules():
        # Blocks then call their modules instead of kernels that the counter does not know.
        module.register_forward_hook(lambda *_: None)
    # Only this kernel of attention is known to the counter on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, _, logits = network(ids, visible, asked)[0]
        logits.square().sum().backward()
    told = work_of(network, visible, asked)
    assert told["tokens"] == 4 * 61
    # The first layer's input needs a gradient too, as vectors of tokens are learned.
    assert told["flops"] == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_padding_is_no_work():
    objective = MaskedObjective()
    network = objective.module
    visible, asked = all_of(network, "image", "spectrum")
    cut = Selection(visible.slots, visible.mask.clone())
    cut.mask[:, 5:] = False
    seen = torch.full((4,), 5)
    wanted = torch.tensor([[0, 5, 0]]).expand(4, -1)
    assert work_of(network, cut, asked) == {
        "tokens": 40.0,
        "flops": training_flops(CONFIG, seen, wanted),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_measured_and_leaves_random_numbers_alone(dtype):
    before = torch.get_rng_state()
    assert matmul_flops_per_second(torch.device("cpu"), dtype) > 1e8
    assert torch.equal(torch.get_rng_state(), before)
