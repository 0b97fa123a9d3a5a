"""What training keeps little for has the gradients that plain modules have."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from omnisky.model.blocks import DecoderBlock, EncoderBlock, GatedMLP, norm
from omnisky.model.fast import sparing


def plainly(block, *given):
    """Compute a block as modules do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparing, "_plain", lambda *_: False)
        return block(*given)


# The compiled kernels take rows and heads of whole vectors of the machine: of the wide block alone.
NARROW, WIDE = 24, 64
BOTH = pytest.mark.parametrize("width", [NARROW, WIDE])


def block_of(kind, width=NARROW):
    """Return a block whose normalisations do something, and what it is given."""
    torch.manual_seed(0)
    block = kind(width, 2, 4.0, True)
    for name, parameter in block.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 2)
    x, context = torch.randn(2, 5, width), torch.randn(2, 7, width)
    among = torch.rand(2, 5, 5) < 0.6
    among[1, 2] = False
    if kind is EncoderBlock:
        return block, [x, among]
    return block, [x, context, among, torch.rand(2, 1, 7) < 0.7]


def gradients(block, given, how):
    given = [g.clone().requires_grad_(g.is_floating_point()) for g in given]
    block.zero_grad()
    how(block, *given).square().sum().backward()
    wanted = [g for g in given if g.requires_grad]
    return [t.grad for t in (*wanted, *block.parameters())]


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_gradients_are_those_of_modules(kind):
    block, given = block_of(kind)
    block = block.double()
    given = [g.double() if g.is_floating_point() else g for g in given]
    torch.testing.assert_close(block(*given), plainly(block, *given))
    found = gradients(block, given, lambda b, *g: b(*g))
    for one, two in zip(found, gradients(block, given, plainly), strict=True):
        torch.testing.assert_close(one, two)


@BOTH
@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_gradients_in_float32_are_those_of_float64(kind, width):
    block, given = block_of(kind, width)
    found = gradients(block, given, lambda b, *g: b(*g))
    exact = [g.double() if g.is_floating_point() else g for g in given]
    for one, wanted in zip(found, gradients(block.double(), exact, plainly), strict=True):
        assert (one - wanted).norm() < 1e-5 * wanted.norm()


@BOTH
@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_gradients_in_bfloat16_are_nearly_as_close(kind, width):
    block, given = block_of(kind, width)
    exact = gradients(block, given, plainly)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(block, given, lambda b, *g: b(*g))
        usual = gradients(block, given, plainly)
    for one, two, wanted in zip(found, usual, exact, strict=True):
        assert one.dtype == wanted.dtype
        size = float(wanted.norm())
        assert (one - wanted).norm() < max(2 * float((two - wanted).norm()), 0.05 * size)


@BOTH
def test_frozen_weights_get_no_gradient(width):
    block, given = block_of(EncoderBlock, width)
    block.mlp.requires_grad_(False)
    block.attn.qkv.weight.requires_grad_(False)
    found = gradients(block, given, lambda b, *g: b(*g))
    usual = gradients(block, given, plainly)
    assert sum(g is None for g in found) == 4
    for one, two in zip(found, usual, strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.allclose(one, two, atol=1e-4, rtol=1e-4)


@BOTH
def test_little_is_kept(width):
    block, given = block_of(EncoderBlock, width)
    weights = {p.data_ptr() for p in block.parameters()}

    def kept(how):
        sizes = {}

        def pack(tensor):
            if tensor.data_ptr() not in weights:
                sizes[tensor.untyped_storage().data_ptr()] = (
                    tensor,
                    tensor.untyped_storage().nbytes(),
                )
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = how(block, given[0].requires_grad_(), None)
        del out
        return sum(size for _, size in sizes.values())

    assert kept(lambda b, *g: b(*g)) < 0.6 * kept(plainly)


def test_other_modules_are_called():
    x, mlp = torch.randn(2, 3, 24), GatedMLP(24, 4.0)
    biased, before = nn.Linear(24, 24), norm(24)
    found = sparing.linear_of_normed(x, before, biased)
    torch.testing.assert_close(found, biased(F.layer_norm(x, (24,), eps=1e-6)))
    torch.testing.assert_close(sparing.gated_of_normed(x, nn.Identity(), mlp), mlp(x))
