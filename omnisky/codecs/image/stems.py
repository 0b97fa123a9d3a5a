"""First and last layer of the image codec: bands into shared channels, and back.

A stem and a head have one interface, so that the codec does not know which it has:

* both are made with ``(bands, width)``, a stem also with ``with_mask``;
* ``knows(band)`` tells whether a band can go in or out;
* ``stem.units(bands)`` says how many nanomaggies a pixel is divided by before range compression;
* ``stem(flux, mask, bands, context)`` projects bands to shared channels;
* ``head(hidden, bands, context)`` projects shared channels to the bands asked for.

A band is (modality, band), for example ``("hsc_image", "g")``. Flux is range compressed, and zero
where the mask is False. The context holds what is known of each object's images, see
`omnisky.codecs.image.pixels.context_of`; it may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnisky.codecs.image.bands import Key

__all__ = ["TableHead", "TableStem"]


class TableStem(nn.Module):
    """Project bands with one learned column for each known band.

    Of C known bands an object has n; its projection is √(C/n)·(W·x + b), so that the activations
    keep their size whatever is missing (AION-1's sub-sampled linear layer, arXiv:2510.17960). A
    band without any good pixel is missing.

    Parameters
    ----------
    bands : sequence of (str, str)
        Known bands; their order is that of the columns.
    width : int
        Shared channels.
    with_mask : bool
        Also project which pixels are bad.
    """

    def __init__(self, bands: Sequence[Key], width: int, *, with_mask: bool = False) -> None:
        super().__init__()
        self.bands = tuple(bands)
        linear = nn.Linear(len(self.bands), width)
        self.weight, self.bias = linear.weight, linear.bias
        self.mask_weight = nn.Parameter(torch.zeros(width, len(self.bands))) if with_mask else None

    def knows(self, band: Key) -> bool:
        """Tell whether there is a column for the band."""
        return band in self.bands

    def units(self, bands: Sequence[Key]) -> Float[Tensor, " band"]:
        """Return the unit of pixels inside, for each band: nanomaggies."""
        return torch.ones(len(bands), device=self.bias.device)

    def scale(self, mask: Bool[Tensor, "object band y x"]) -> Float[Tensor, " object"]:
        """Return √(C/n) of each object, shape (object,), from a mask (object, band, y, x)."""
        there = mask.flatten(2).any(2).sum(1)
        return (len(self.bands) / there.clamp(min=1)).sqrt()

    def forward(
        self,
        flux: Float[Tensor, "object band y x"],
        mask: Bool[Tensor, "object band y x"],
        bands: Sequence[Key],
        context: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "object channel y x"]:
        columns = [self.bands.index(band) for band in bands]
        out = torch.einsum("bchw,dc->bdhw", flux, self.weight[:, columns])
        if self.mask_weight is not None:
            there = mask.flatten(2).any(2)[:, :, None, None]
            bad = (there & ~mask).to(flux.dtype)
            out = out + torch.einsum("bchw,dc->bdhw", bad, self.mask_weight[:, columns])
        return self.scale(mask)[:, None, None, None] * (out + self.bias[:, None, None])


class TableHead(nn.Module):
    """Project shared channels to bands with one learned row for each known band.

    Parameters
    ----------
    bands : sequence of (str, str)
        Known bands; their order is that of the rows.
    width : int
        Shared channels.
    """

    def __init__(self, bands: Sequence[Key], width: int) -> None:
        super().__init__()
        self.bands = tuple(bands)
        linear = nn.Linear(width, len(self.bands))
        self.weight, self.bias = linear.weight, linear.bias

    def knows(self, band: Key) -> bool:
        """Tell whether there is a row for the band."""
        return band in self.bands

    def forward(
        self,
        hidden: Float[Tensor, "object channel y x"],
        bands: Sequence[Key],
        context: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "object band y x"]:
        rows = [self.bands.index(band) for band in bands]
        out = torch.einsum("bdhw,cd->bchw", hidden, self.weight[rows])
        return out + self.bias[rows][:, None, None]
