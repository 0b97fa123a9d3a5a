"""How is a module divided among processes? Weights, gradients and moments by rows, from outside.

`torch.distributed.fsdp.fully_shard` is applied block by block, then to what is left, so that a
process holds its rows of everything and one whole block at a time. A tensor is divided along its
first axis into as many pieces as there are processes, the first ones larger; a checkpoint holds
the pieces as they are, and a run on another number of processes reads the rows that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

__all__ = [
    "Parts",
    "Shards",
    "blocks_of",
    "broadcast_from_main",
    "divided_like",
    "local_part",
    "rows_here",
    "use_every_weight",
]


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the parts that a module computes one after the other, as its ``blocks()`` says."""
    method = getattr(module, "blocks", None)
    return list(method()) if callable(method) else []  # type: ignore[arg-type]


def use_every_weight(module: nn.Module) -> None:
    """Let every weight have a gradient, zero if need be, whatever a batch consists of.

    Processes that divide a gradient among them must agree on which weights have one, but a batch
    in which no object is asked for some modality leaves that modality's weights unused. A term
    without value is added to the output: an empty slice of each weight, never the weight itself,
    as zero times infinity is no number.
    """

    def touch(module: nn.Module, _: tuple, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output
        # Blocks have been divided again by now; what is whole is what the module holds itself.
        mine = [p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        nothing = torch.stack([p.flatten()[:0].sum().float() for p in mine]).sum()
        done = False

        def add(tensor: Tensor) -> Tensor:
            nonlocal done
            if done or not tensor.requires_grad:
                return tensor
            done = True
            return tensor + nothing.to(tensor.dtype)

        return _map(add, output) if mine else output

    module.register_forward_hook(touch)


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return lists, tuples and dictionaries with their tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_map(change, one) for one in value)
    if isinstance(value, dict):
        return {key: _map(change, one) for key, one in value.items()}
    return value


class Shards:
    """A module whose weights are divided among processes; made in place.

    Parameters
    ----------
    module : nn.Module
        What to divide. Its weights may lie on the meta device. Those of all processes must be
        equal.
    device : torch.device
        Where each process computes.
    world_size : int
        Number of processes.
    """

    def __init__(self, module: nn.Module, device: torch.device, world_size: int) -> None:
        self.module, self.divided = module, world_size > 1
        # What fully_shard adds to modules; `gather` takes it away again.
        self._before = [(m, type(m), set(m.__dict__), _hooks(m)) for m in module.modules()]
        use_every_weight(module)
        if not self.divided:
            return
        mesh = init_device_mesh(device.type, (world_size,))
        for part in (*blocks_of(module), module):
            # The rest of the module too: a weight that stays whole after an evaluation, in which
            # nothing goes backward, would not be the one that the optimizer moves.
            fully_shard(part, mesh=mesh, reshard_after_forward=True)

    @torch.no_grad()
    def gather(self, *, keep: bool, device: torch.device) -> None:
        """Make it an ordinary module again, with whole weights.

        Parameters
        ----------
        keep : bool
            Whether this process gets them. In the others they lie on the meta device, without
            memory.
        device : torch.device
            Where to put them.
        """
        for owner in self.module.modules() if self.divided else ():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                assert isinstance(parameter, DTensor)
                full = parameter.full_tensor()
                value = full.detach().to(device) if keep else torch.empty_like(full, device="meta")
                owner._parameters[name] = nn.Parameter(value, parameter.requires_grad)
        for module, kind, names, hooks in self._before:
            for table, kept in zip(_tables(module), hooks, strict=True):
                for number in [n for n in table if n not in kept]:
                    del table[number]
            for name in set(module.__dict__) - names:
                del module.__dict__[name]
            module.__class__ = kind


def _tables(module: nn.Module) -> list[dict]:
    return [
        module._forward_pre_hooks,
        module._forward_pre_hooks_with_kwargs,
        module._forward_hooks,
        module._state_dict_hooks,
        module._state_dict_pre_hooks,
        module._load_state_dict_pre_hooks,
    ]


def _hooks(module: nn.Module) -> list[set]:
    return [set(table) for table in _tables(module)]


def broadcast_from_main(module: nn.Module, device: torch.device) -> None:
    """Give all processes the weights and buffers of the main one."""
    for tensor in (*module.parameters(), *module.buffers()):
        moved = tensor.detach().to(device)
        dist.broadcast(moved, 0)
        tensor.data.copy_(moved)


def local_part(template: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a stored tensor as this process holds its like.

    Parameters
    ----------
    template : Tensor
        What it will replace, divided or not.
    tensors : mapping of str to Tensor
        Stored tensors, possibly `Parts`, of which only the rows needed are read.
    name : str
        Which of them.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if not isinstance(template, DTensor):
        return tensors[name]
    parted = isinstance(tensors, Parts)
    shape = tensors.shape(name) if parted else tuple(tensors[name].shape)
    if shape != tuple(template.shape):
        raise ValueError(f"{name} has the shape {shape} there, {tuple(template.shape)} here")
    start, stop = rows_here(template)
    rows = tensors.rows(name, start, stop) if parted else tensors[name][start:stop]
    return divided_like(template, rows.to(template.to_local().device))


def divided_like(template: DTensor, rows: Tensor) -> DTensor:
    """Return the divided tensor of which these are the rows that are here."""
    return DTensor.from_local(
        rows,
        template.device_mesh,
        template.placements,
        shape=template.shape,
        stride=template.stride(),
    )


def rows_here(tensor: DTensor) -> tuple[int, int]:
    """Return the first row of a divided tensor that is here, and the one after the last."""
    mesh, rows = tensor.device_mesh, tensor.shape[0]
    # As torch.chunk divides: the first pieces are of the same length, the last ones may be empty.
    length = -(-rows // mesh.size())
    start = min(mesh.get_local_rank() * length, rows)
    return start, min(start + length, rows)


class Parts(Mapping[str, Tensor]):
    """Tensors stored in several files, each with some rows of some; read when asked for.

    Parameters
    ----------
    paths : sequence of Path
        Files of safetensors, in the order of the rows.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._pieces: dict[str, list[tuple[Path, tuple[int, ...]]]] = {}
        for path in paths:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    shape = tuple(file.get_slice(name).get_shape())
                    self._pieces.setdefault(name, []).append((path, shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, name: str) -> Tensor:
        pieces = self._pieces[name]
        with ExitStack() as stack:
            opened = [stack.enter_context(safe_open(p, framework="pt")) for p, _ in pieces]
            found = [file.get_tensor(name) for file in opened]
        return found[0] if len(found) == 1 else torch.cat(found)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        shapes = [shape for _, shape in self._pieces[name]]
        return shapes[0] if len(shapes) == 1 else (sum(s[0] for s in shapes), *shapes[0][1:])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return some rows of a tensor; no others are read."""
        found, first = [], 0
        for path, shape in self._pieces[name]:
            here = max(start - first, 0), min(stop - first, shape[0])
            first += shape[0]
            if here[0] < here[1]:
                with safe_open(path, framework="pt") as file:
                    found.append(file.get_slice(name)[here[0] : here[1]])
        if found:
            return torch.cat(found)
        path, _ = self._pieces[name][0]
        with safe_open(path, framework="pt") as file:
            return file.get_slice(name)[:0]
