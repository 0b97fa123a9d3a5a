"""What does a training loop ask of the network? How to divide, move, spare and make its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from omnisky.model.blocks import DecoderBlock, EncoderBlock, check_compiler, xavier
from omnisky.model.embeddings import VECTOR_SCALE, TokenGroupWeights

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from omnisky.model.config import ModelConfig
    from omnisky.model.transformer import Transformer

__all__ = ["Trainable", "new_network", "without_memory"]


class Trainable(nn.Module):
    """A network of an encoder and a decoder, as the loop of `omnisky.train` sees it."""

    encoder: nn.ModuleList
    decoder: nn.ModuleList

    # They say what ids mean and where they are kept; training changes none.
    buffers_are_fixed = True

    def blocks(self) -> list[EncoderBlock | DecoderBlock]:
        """Return the parts that are computed one after the other."""
        found = []
        for block in (*self.encoder, *self.decoder):
            assert isinstance(block, (EncoderBlock, DecoderBlock))
            found.append(block)
        return found

    def set_dropout(self, rate: float) -> None:
        """Leave out this share of what each part of each block says, in training mode only."""
        for block in self.blocks():
            block.dropout = rate

    def set_recompute(self, wanted: bool) -> None:
        """Keep only what goes into blocks for the backward pass, and compute the rest again."""
        for block in self.blocks():
            block.recompute = wanted

    def set_compiled(self, wanted: bool, device: torch.device | str = "cpu") -> None:
        """Fuse what lies inside blocks with torch.compile, in training and where vectors are made.

        It is the same to single precision, except that dropout draws other numbers. Names of
        weights stay what they are.

        Parameters
        ----------
        wanted : bool
            Whether to.
        device : torch.device or str
            Where it will compute.

        Raises
        ------
        OSError
            If nothing can be compiled for that device on this machine.
        """
        if wanted:
            check_compiler(torch.device(device))
        for block in self.blocks():
            block.compiled = wanted

    def hidden_matrices(self) -> set[str]:
        """Return names of the square-ish matrices inside the blocks, which Muon may move."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim == 2 and name.startswith(("encoder.", "decoder."))
        }

    def no_weight_decay(self) -> set[str]:
        """Return parameters that the optimizer must not decay: vectors, not matrices."""
        return {
            name
            for name, _ in self.named_parameters()
            if name == "mask_token" or name.startswith(("modality_vectors", "position_vectors"))
        }

    @torch.no_grad()
    def materialise(self, device: torch.device | str, seed: int) -> None:
        """Give weights without memory memory and values, drawn as a new network's are.

        Divided among processes or not, the values are the same: each weight is drawn whole, one
        after the other, and a process keeps the rows that are its own.

        Parameters
        ----------
        device : torch.device or str
            Where to put them.
        seed : int
            Seed of the values.
        """
        from torch.distributed.tensor import DTensor

        buffers = {name: buffer.detach().clone() for name, buffer in self.named_buffers()}
        self.to_empty(device=torch.device(device))
        for name, buffer in self.named_buffers():
            buffer.copy_(buffers[name])
        generator = torch.Generator().manual_seed(seed)
        for name, owner in self.named_modules():
            for own, parameter in owner.named_parameters(recurse=False):
                fresh = torch.empty(parameter.shape)
                _draw(fresh, name, owner, own, generator)
                if isinstance(parameter, DTensor):
                    _keep_rows(parameter, fresh)
                else:
                    parameter.copy_(fresh)


def _draw(
    weight: Tensor, name: str, owner: nn.Module, own: str, generator: torch.Generator
) -> None:
    """Fill a weight as the constructors do."""
    if isinstance(owner, nn.Linear):
        if own == "bias":
            weight.zero_()
        else:
            xavier(weight, name, generator)
    elif isinstance(owner, nn.LayerNorm):
        weight.fill_(1.0)
    else:
        scale = owner.scale_of(own) if isinstance(owner, TokenGroupWeights) else VECTOR_SCALE
        weight.normal_(generator=generator).mul_(scale)


def _keep_rows(parameter: DTensor, whole: Tensor) -> None:
    mesh = parameter.device_mesh
    # As fully_shard divides; pieces at the end may be empty.
    rows = whole.chunk(mesh.size())
    if mesh.get_local_rank() < len(rows):
        parameter.to_local().copy_(rows[mesh.get_local_rank()])


def new_network(config: ModelConfig) -> Transformer:
    """Return an untrained network; under ``torch.device("meta")`` one `without_memory`."""
    from omnisky.model.transformer import Transformer

    on_meta = torch.get_default_device().type == "meta"
    return without_memory(config) if on_meta else Transformer(config)


def without_memory(config: ModelConfig) -> Transformer:
    """Return a network whose weights lie on the meta device; see `Trainable.materialise`.

    Its buffers, which are small, have memory: what a modality's ids mean may be told at once.

    Parameters
    ----------
    config : ModelConfig
        Sizes and modalities.
    """
    from omnisky.model.transformer import Transformer, layout_buffers

    with torch.device("meta"):
        network = Transformer(config)
    with torch.device("cpu"):
        for name, buffer in layout_buffers(config).items():
            network.register_buffer(name, buffer, persistent=False)
        for module in network.modules():
            if isinstance(module, TokenGroupWeights):
                module.reset_buffers()
    return network
