"""What lies between products, compiled and by torch, against float64 and autograd."""

import pytest
import torch
from torch.nn import functional as F

from omnisky.model.fast import between
from omnisky.model.fast.between import (
    between_kernels,
    chances,
    chances_back,
    gated,
    gated_back,
    normed,
    normed_back,
    normed_heads,
    normed_heads_back,
)

needs_kernels = pytest.mark.skipif(
    between_kernels() is None, reason="no C compiler whose kernels give what torch gives"
)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
TYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))
EPS = 1e-6


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def _with_and_without(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(between, "between_kernels", lambda: None)
    with torch.no_grad():
        yield


def close(found, wanted, dtype):
    assert found.dtype == dtype
    size = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=size, atol=size)


def by_autograd(function, said, *given):
    """Return what a function gives, and gradients of what it is given, in float64."""
    given = [g.double().requires_grad_() for g in given]
    with torch.enable_grad():
        found = function(*given)
        found.backward(said.double())
    return found.detach(), *(g.grad for g in given)


def norm_of(x, gain):
    return F.layer_norm(x, gain.shape, gain, None, EPS)


# A residual is float32 where products are bfloat16, never the other way.
@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (131,)])
@pytest.mark.parametrize("width", [24, 64, 96])
def test_norm(given, dtype, shape, width):
    x, said = torch.randn(*shape, width).to(given), torch.randn(*shape, width).to(dtype)
    gain = torch.rand(width) + 0.5
    found, standard, scale = normed(3 * x + 1, gain, EPS, dtype)
    of_x, of_gain = normed_back(said, standard, scale, gain, given)
    wanted, of_x_wanted, of_gain_wanted = by_autograd(norm_of, said, 3 * x + 1, gain)
    close(found, wanted, dtype)
    assert of_x.dtype == given
    close(of_x.to(dtype), of_x_wanted, dtype)
    assert (of_gain - of_gain_wanted).norm() < TOLERANCE[dtype] * of_gain_wanted.norm()


@TYPES
@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("width", [12, 32])
def test_norm_of_heads_as_they_lie_in_fused_vectors(dtype, factor, width):
    x = torch.randn(2, 37, 3, 4, width).to(dtype)[:, :, 1]
    gain, said = torch.rand(width) + 0.5, torch.randn(2, 4, 37, width).to(dtype)
    found = normed_heads(x, gain, EPS, factor)
    of_x, of_gain = normed_heads_back(said, x, gain, EPS, factor)
    wanted, *of = by_autograd(
        lambda x, gain: norm_of(x, gain).transpose(1, 2) * factor, said, x, gain
    )
    close(found, wanted, dtype)
    close(of_x, of[0], dtype)
    assert (of_gain - of[1]).norm() < TOLERANCE[dtype] * of[1].norm()


@TYPES
@pytest.mark.parametrize("width", [5, 64])
def test_gate(dtype, width):
    a, b, said = (torch.randn(7, width).to(dtype) for _ in range(3))
    a[0] *= 30
    wanted, *of = by_autograd(lambda a, b: F.silu(a) * b, said, a, b)
    close(gated(a, b), wanted, dtype)
    for found, right in zip(gated_back(said, a, b), (wanted, *of), strict=True):
        close(found, right, dtype)


@TYPES
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("keys", [1, 16, 37, 700])
def test_chances(dtype, rows, keys):
    scores, said = (torch.randn(3, 5, keys).to(dtype) for _ in range(2))
    mask = torch.rand(1, rows, keys) < 0.5
    mask[..., keys // 2] = True
    for hidden in (None, mask):

        def of_scores(x, hidden=hidden):
            return (x if hidden is None else x.masked_fill(~hidden, -torch.inf)).softmax(-1)

        wanted, of = by_autograd(of_scores, said, 4 * scores)
        found = chances((4 * scores).clone(), hidden)
        close(found, wanted, dtype)
        if hidden is not None:
            assert not found[~hidden.expand_as(found)].any()
        close(chances_back(said.clone(), found), of, dtype)


@TYPES
def test_what_is_not_a_number_stays_so(dtype):
    x, gain = torch.randn(3, 64).to(dtype), torch.ones(64)
    x[1, 7] = torch.nan
    for found in (normed(x, gain, EPS, dtype)[0], chances(x[None].clone(), None)[0]):
        assert found.isnan().all(1).tolist() == [False, True, False]
    assert gated(x, x).isnan().nonzero().tolist() == [[1, 7]]


@needs_kernels
@TYPES
def test_nothing_depends_on_threads(dtype, monkeypatch):
    x, said, gain = torch.randn(500, 64).to(dtype), torch.randn(500, 64).to(dtype), torch.rand(64)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        out, standard, scale = normed(x, gain, EPS, dtype)
        found.append((out, *normed_back(said, standard, scale, gain, dtype), gated(x, said)))
    assert all(map(torch.equal, *found))


@needs_kernels
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("- mean) * scale)", "- mean))"),
        ("v * LOAD(gain + i) * factor", "v * LOAD(gain + i)"),
        ("- mean - LOAD(row + i) * slope", "- LOAD(row + i) * slope"),
        ("+ given * v);\n        given", "+ given);\n        given"),
        ("(share + open * (1 - share))", "(share + open * (1 + share))"),
        ("mask[i] ? row[i] : least", "mask[i] ? row[i] : 0"),
        ("(LOAD(said + i) - mean));", "LOAD(said + i));"),
    ],
)
def test_kernels_that_differ_are_not_used(right, wrong, change_source):
    change_source(between, right, wrong)
    assert between_kernels.__wrapped__() is None
