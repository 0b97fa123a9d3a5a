"""Quantisers of the latent-grid codec against the library, the definition, and the peer."""

import numpy as np
import pytest
import torch

from omnisky.codecs.quantisers import LFQ, GridBins


@pytest.fixture(scope="module")
def library():
    import vector_quantize_pytorch

    return vector_quantize_pytorch.LFQ(
        dim=10, codebook_size=1024, entropy_loss_weight=0.1, commitment_loss_weight=0.25
    )


def test_codes_and_indices_are_those_of_the_library(library):
    z = torch.randn(3, 50, 10)
    z[0, 0] = 0  # the border belongs to -1
    codes, indices, _ = library.eval()(z)
    lfq = LFQ(10)
    assert torch.equal(lfq(z), codes)
    assert torch.equal(lfq.codes_to_indices(lfq(z)), indices)
    assert torch.equal(lfq.indices_to_codes(indices), library.indices_to_codes(indices))


def test_the_first_channel_is_the_most_significant():
    lfq = LFQ(3)
    assert lfq.codes_to_indices(torch.tensor([1.0, -1.0, -1.0])) == 4
    assert torch.equal(lfq.indices_to_codes(torch.tensor(1)), torch.tensor([-1.0, -1.0, 1.0]))


def test_losses_and_their_gradients_are_those_of_the_library(library):
    # Small values, or all soft assignments would be certain.
    ours = (torch.randn(2, 40, 10) * 0.01).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    commitment, entropy = LFQ(10).losses(ours)
    _, parts = library.train()(theirs, return_loss_breakdown=True)
    torch.testing.assert_close(commitment, parts.commitment)
    expected = parts.per_sample_entropy - parts.batch_entropy
    # The library puts a floor of 1e-5 under the probabilities in the logarithm.
    torch.testing.assert_close(entropy, expected, atol=5e-3, rtol=0)
    commitment.backward()
    parts.commitment.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradients_pass_straight_through():
    z = torch.randn(5, 4, requires_grad=True)
    LFQ(4)(z).sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))


def test_a_number_of_bits_without_meaning_is_refused():
    for bits in (0, 21):
        with pytest.raises(ValueError, match="1 to 20 bits"):
            LFQ(bits)


def test_nearest_bins_have_no_bias_and_the_others_half_a_step():
    bins, step = GridBins(-1.0, 5.0, 1024), 6 / 1023
    x = torch.from_numpy(np.random.default_rng(0).uniform(-0.9, 4.9, 100_000)).float()
    error = (bins.decode(bins.encode(x)) - x) / step
    assert abs(error.mean()) < 0.01
    assert error.abs().max() < 0.51
    up = (bins.decode(bins.encode(x, nearest=False)) - x) / step
    assert abs(up.mean() - 0.5) < 0.01


def test_aion_defect_half_bin_bias_is_the_peers_own_bucketing():
    from aion.codecs.quantizers import ScalarLinearQuantizer

    peer, ours = ScalarLinearQuantizer(1024, (-1, 5)), GridBins(-1, 5, 1024)
    x = torch.cat([torch.linspace(-2, 6, 5000), peer.buckets])
    assert torch.equal(ours.encode(x, nearest=False), peer.encode(x).long())
    assert torch.equal(ours.decode(ours.encode(x, nearest=False)), peer.decode(peer.encode(x)))


def test_bins_refuse_nan_and_tell_what_is_outside():
    bins = GridBins(0.0, 1.0, 11)
    with pytest.raises(ValueError, match="NaN"):
        bins.encode(torch.tensor([0.5, torch.nan]))
    x = torch.tensor([-0.1, 0.0, 1.0, 1.1, torch.inf])
    assert bins.outside(x).tolist() == [True, False, False, True, True]
    assert bins.encode(x).tolist() == [0, 0, 10, 10, 10]
    for wrong in ((1.0, 1.0, 5), (0.0, 1.0, 1)):
        with pytest.raises(ValueError, match="low < high"):
            GridBins(*wrong)
