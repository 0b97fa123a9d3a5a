"""Kernels for few tokens, and the choice among ways to multiply, against plain torch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from omnisky.model.blocks import GatedMLP, norm
from omnisky.model.fast import (
    add_mlp,
    add_product,
    attend_densely,
    attend_normed_densely,
    few,
    few_kernels,
    product,
    verbs,
)

needs_kernels = pytest.mark.skipif(
    few_kernels() is None, reason="no C compiler whose kernels give what torch gives"
)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
TYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))


@pytest.fixture(autouse=True)
def _for_use():
    with torch.no_grad():
        yield


def close(found, wanted, dtype):
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def parts(dtype):
    """Return a normalisation and an MLP of this type, and the same in float64."""
    before, mlp = norm(64), GatedMLP(64, 3.0)
    before.weight.uniform_(0.5, 2)
    before, mlp = before.to(dtype), mlp.to(dtype)
    exact = norm(64).double(), GatedMLP(64, 3.0).double()
    exact[0].load_state_dict(before.state_dict())
    exact[1].load_state_dict(mlp.state_dict())
    return before, mlp, *exact


@TYPES
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(1,), (4, 1), (2, 3, 2), (23,), (5, 40)])
def test_verbs_equal_modules(dtype, threads, shape, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    before, mlp, exact_before, exact_mlp = parts(dtype)
    x = torch.randn(*shape, 64).to(dtype)
    given, whole = x.clone(), x.double()
    close(add_mlp(x, mlp, before), whole + exact_mlp(exact_before(whole)), dtype)
    wide = product(x, mlp.fc1, before)
    close(wide, exact_mlp.fc1(exact_before(whole)), dtype)
    close(product(x, mlp.fc1, before, slice(-16, None)), wide[..., -16:].double(), dtype)
    close(add_product(x, wide, mlp.fc2), whole + exact_mlp.fc2(wide.double()), dtype)
    assert torch.equal(x, given)


@TYPES
@pytest.mark.parametrize("keys", [1, 9, 700])
def test_attention_equals_torch(dtype, keys):
    q = torch.randn(2, 3, 5, 32).to(dtype)
    # As heads lie in the vectors of tokens.
    k, v = torch.randn(2, keys, 2, 3, 32).to(dtype).permute(2, 0, 3, 1, 4)
    wanted = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    close(attend_densely(q, k, v), wanted, dtype)


@TYPES
@pytest.mark.parametrize("slow", [False, True], ids=["fast", "imitated"])
@pytest.mark.parametrize("length", [1, 7, 150])
def test_attention_of_normalised_heads_equals_torch(dtype, slow, length, monkeypatch):
    monkeypatch.setattr(verbs, "_slow_in_bfloat16", lambda: slow)
    # Two heads of 150 vectors at a time, then the third.
    monkeypatch.setattr(verbs, "_SCORES", 50_000)
    q, k, v = torch.randn(2, length, 3, 3, 32).to(dtype).unbind(2)
    norms = tuple(norm(32).to(dtype) for _ in range(2))
    for one in norms:
        one.weight.copy_(1 + torch.randn(32) / 8)
    for pair in (norms, (norms[0], nn.Identity())):
        found = attend_normed_densely(q, k, v, pair)
        exact = [copy.deepcopy(one).double() for one in pair]
        heads = exact[0](q.double()), exact[1](k.double()), v.double()
        wanted = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in heads))
        close(found, wanted.transpose(1, 2), dtype)


@needs_kernels
@TYPES
def test_kernels_do_not_depend_on_threads_nor_on_company(dtype, monkeypatch):
    before, mlp, *_ = parts(dtype)
    x = torch.randn(13, 64).to(dtype)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = add_mlp(x, mlp, before)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(add_mlp(x, mlp, before), one)
    assert torch.equal(add_mlp(x[6:8], mlp, before), one[6:8])


@needs_kernels
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sum + LOAD(x + i)", "sum - LOAD(x + i)"),
        ("mean, width, eps)", "mean, width, 1)"),
        ("share = 1 / (1 + small)", "share = 1 / (2 + small)"),
        ("+ heard[3]) / sum", "+ heard[2]) / sum"),
        ("before + found[r][c], short_", "found[r][c], short_"),
    ],
)
def test_kernels_that_differ_are_not_used(right, wrong, change_source):
    change_source(few, right, wrong)
    assert few_kernels.__wrapped__() is None


@TYPES
@pytest.mark.parametrize("shape", [(7,), (5, 40)])
@pytest.mark.parametrize("slow", [True, False])
def test_without_kernels_nor_products_of_bfloat16(dtype, shape, slow, monkeypatch):
    monkeypatch.setattr(verbs, "few_kernels", lambda: None)
    monkeypatch.setattr(verbs, "_slow_in_bfloat16", lambda: slow)
    before, mlp, exact_before, exact_mlp = parts(dtype)
    x = torch.randn(*shape, 64).to(dtype)
    close(add_mlp(x, mlp, before), x.double() + exact_mlp(exact_before(x.double())), dtype)
    q = torch.randn(1, 2, 6, 32).to(dtype)
    wanted = F.scaled_dot_product_attention(*3 * [q.double()])
    close(attend_densely(q, q, q), wanted, dtype)


class _Adapted(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def test_other_modules_are_called():
    x, before = torch.randn(3, 64), norm(64)
    adapted = _Adapted(64, 64, bias=False)
    torch.testing.assert_close(product(x, adapted, before), adapted(before(x)))
    torch.testing.assert_close(add_product(x, x, adapted), x + adapted(x))
    biased = nn.Linear(64, 64)
    torch.testing.assert_close(product(x, biased, nn.Identity()), biased(x))
