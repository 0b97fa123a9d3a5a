"""The door: what users give, checked, as tokens or features, sorted by which inputs are there.

The encoder sees an object differently when its spectrum or its photometry is missing. Objects are
therefore sorted into *views*, one for each pattern of inputs: ``"full"``, and each kind of
modality alone (``"spectrum"``, ``"scalar"``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omnisky.adapt.measured import MeasuredColumns
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Measurement, Observations, UnknownModalityError, refuse_other
from omnisky.model import Model
from omnisky.model.compact import refuse_rounded
from omnisky.surveys import modality

__all__ = [
    "FULL",
    "Features",
    "Groups",
    "View",
    "are_objects",
    "batches",
    "count_objects",
    "device_of",
    "encode",
    "endless_batches",
    "groups_of",
    "load_base",
    "measure",
    "measured_columns",
    "on_device",
    "present_views",
    "richest",
    "subset_views",
    "take",
    "tokens_of",
]

FULL = "full"
_BATCH = 512
# Spectra of more pixels are left to the pretrained model.
_MOST_PIXELS = 1000
_NOTHING = torch.zeros(0, 0)
Groups = dict[str, list[str]]


@dataclass(frozen=True)
class Features:
    """Hold what the pretrained model makes of some objects.

    Parameters
    ----------
    x : tensor, shape (object, slot, dim)
        Encoder outputs.
    mask : tensor, shape (object, slot)
        True where there is one.
    answers : tensor, shape (object, number)
        What the decoder expects quantities to be that were not given; may have no column.
    measured : tensor, shape (object, number)
        Measured numbers, NaN where missing; may have no column.
    """

    x: Tensor
    mask: Tensor
    answers: Tensor
    measured: Tensor

    def __getitem__(self, rows: np.ndarray | slice) -> Features:
        """Return the features of some objects."""
        return Features(self.x[rows], self.mask[rows], self.answers[rows], self.measured[rows])

    def __len__(self) -> int:
        return len(self.x)

    def double(self) -> Features:
        """Return the same in float64."""
        return Features(self.x.double(), self.mask, self.answers.double(), self.measured.double())


@dataclass(frozen=True, kw_only=True)
class View:
    """Hold objects that show the same pattern of inputs.

    Parameters
    ----------
    index : int
        Number of the pattern.
    rows : array of int, shape (row,)
        Which of the given objects these are.
    tokens : Tokens, optional
        Their tokens; none for plain arrays.
    computed : Features, optional
        What the pretrained model makes of them, once computed.
    measured : tensor, shape (row, number)
        What was measured of them, as numbers.
    """

    index: int
    rows: np.ndarray
    tokens: Tokens | None = None
    computed: Features | None = None
    measured: Tensor = _NOTHING

    @classmethod
    def of_array(cls, array: np.ndarray) -> View:
        """Make embeddings, shape (object, dim), tokens of which each object has one."""
        x = torch.tensor(array, dtype=torch.float32)[:, None]
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        nothing = x.new_zeros(len(x), 0)
        computed = Features(x, mask, nothing, nothing)
        return cls(index=0, rows=np.arange(len(x)), computed=computed)

    def __getitem__(self, index: np.ndarray | slice) -> View:
        """Return some rows."""
        return View(
            index=self.index,
            rows=self.rows[index],
            tokens=self.tokens and take(self.tokens, index),
            computed=self.computed and self.computed[index],
            measured=self.measured[index] if len(self.measured) else self.measured,
        )

    def features(self, index: np.ndarray | slice = slice(None)) -> Features:
        """Return what the pretrained model makes of some rows."""
        assert self.computed is not None, "encode the view first"
        return self.computed[index]


def load_base(base: Any, *, to_fit: bool = False) -> Any:
    """Return the pretrained model of this name, or the model itself if it is one.

    Parameters
    ----------
    base : str, path or Model
        What the user gave.
    to_fit : bool
        Something will be fitted on it and saved with the name and digest of its weights.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If something is to be fitted on rounded weights, which no name stands for.
    """
    if hasattr(base, "network") and hasattr(base, "tokenize"):
        if to_fit:
            refuse_rounded(base.network, "others than those that its name stands for", "fit on")
        return base
    if not isinstance(base, str) and not hasattr(base, "__fspath__"):
        raise TypeError(
            f"base must be the name of a pretrained model (such as 'nano'), its folder, or a "
            f"Model; found {type(base).__name__}"
        )
    return Model.from_pretrained(base)


def device_of(base: Any) -> torch.device:
    """Return where the model's weights are; without a model, the CPU."""
    return torch.device("cpu") if base is None else next(base.network.parameters()).device


def are_objects(x: Any) -> bool:
    """Tell objects, which the pretrained model reads, from arrays of features.

    Raises
    ------
    TypeError
        If it holds measurements in another way: a table, a data set, a mapping, one measurement.
    """
    if isinstance(x, (Observations, Tokens)):
        return True
    # Some sparse arrays of SciPy are mappings, too.
    mapping = isinstance(x, Mapping) and not hasattr(x, "shape")
    named = hasattr(x, "observations") or hasattr(x, "colnames")
    if mapping or named or isinstance(x, Measurement):
        refuse_other(x, "FineTunedModel", "Observations, Tokens or an array of features")
    return False


def tokens_of(x: Any, base: Any, fitted: Groups | None = None) -> Tokens:
    """Return the tokens of observations, or the tokens themselves, checked.

    Parameters
    ----------
    x : Observations or Tokens
        What the user gave.
    base : Model
        The pretrained model that reads them.
    fitted : Groups, optional
        Modalities seen at fit; others are refused.

    Raises
    ------
    UnknownModalityError
        If the model, or the fit, does not know one of the modalities.
    ValueError
        If there are no objects, or some have no token at all.
    TypeError
        If they are neither Observations nor Tokens.
    """
    if not isinstance(x, (Observations, Tokens)):
        refuse_other(x, "the pretrained model", "Observations or Tokens")
    if len(x) == 0:
        raise ValueError("found 0 objects; give at least one")
    unknown = [name for name in x if name not in base.tokenizer.codecs]
    if unknown:
        raise UnknownModalityError(
            f"the pretrained model has no tokens for {', '.join(unknown)}; it knows "
            f"{', '.join(base.tokenizer.codecs)}. Leave the others out with .drop({unknown[0]!r})"
        )
    if fitted is not None:
        seen = [name for names in fitted.values() for name in names]
        new = [name for name in x if name not in seen]
        if new:
            raise UnknownModalityError(
                f"{', '.join(new)} was not among the inputs at fit, which were {', '.join(seen)}; "
                f"leave it out with .drop({new[0]!r}) or fit again with it"
            )
    tokens = base.tokenize(x) if isinstance(x, Observations) else x
    empty = ~_present(tokens, list(tokens))
    if empty.any():
        raise ValueError(
            f"{empty.sum()} of {len(empty)} objects have no token in any of {', '.join(tokens)}: "
            f"everything is missing. The first is object {int(np.argmax(empty))}; leave them out"
        )
    return tokens


def count_objects(views: list[View]) -> int:
    """Return the number of objects; each is in at least one view."""
    return 1 + max(int(view.rows.max()) for view in views)


def take(tokens: Tokens, index: np.ndarray | slice) -> Tokens:
    """Return the tokens of some objects."""
    return cast(Tokens, tokens[index])


def groups_of(tokens: Tokens) -> Groups:
    """Return the modalities by kind of measurement."""
    groups: Groups = {}
    for name in tokens:
        groups.setdefault(modality(name).kind, []).append(name)
    return groups


def _present(tokens: Tokens, names: list[str]) -> np.ndarray:
    """Return which objects have a token in one of these modalities, shape (object,)."""
    here = [tokens.mask[name].any(1) for name in names if name in tokens]
    if not here:
        return np.zeros(len(tokens), dtype=bool)
    return torch.stack(here).any(0).cpu().numpy()


def present_views(tokens: Tokens, groups: Groups) -> list[View]:
    """Sort objects by the inputs they have; each object is in one view.

    View 0 is everything (or several kinds at once), view 1 + i the i-th kind alone.
    """
    if len(groups) == 1:
        return [View(index=0, rows=np.arange(len(tokens)), tokens=tokens)]
    has = np.stack([_present(tokens, names) for names in groups.values()])
    number = np.where(has.sum(0) == 1, 1 + has.argmax(0), 0)
    found = [(i, np.flatnonzero(number == i)) for i in np.unique(number)]
    return [View(index=int(i), rows=rows, tokens=take(tokens, rows)) for i, rows in found]


def subset_views(tokens: Tokens, groups: Groups) -> list[View]:
    """Show objects under every pattern their inputs allow; an object may be in several views."""
    views = [view for view in present_views(tokens, groups) if view.index == 0]
    if len(groups) == 1:
        return views
    for i, names in enumerate(groups.values()):
        rows = np.flatnonzero(_present(tokens, names))
        alone = tokens.select(*(name for name in names if name in tokens)) if len(rows) else None
        if alone is not None:
            views.append(View(index=1 + i, rows=rows, tokens=take(alone, rows)))
    return views


def measured_columns(tokens: Tokens, base: Any) -> MeasuredColumns:
    """Return which numbers stand for what was measured: scalars and spectra of few pixels."""
    kinds = {name: modality(name) for name in tokens}
    few = [n for n, m in kinds.items() if m.wavelength_nm and m.wavelength_nm[2] <= _MOST_PIXELS]
    names = [n for n, m in kinds.items() if m.kind == "scalar" or n in few]
    if not names:
        return MeasuredColumns({})
    return MeasuredColumns.of(base.tokenizer.decode(take(tokens.select(*names), slice(0, 1))))


def measure(views: list[View], tokens: Tokens, base: Any, columns: MeasuredColumns) -> list[View]:
    """Return views of objects with the numbers that their tokens stand for, NaN where hidden.

    Decoded, whatever the user gave, so that observations and their tokens give the same.
    """
    names = [name for name in columns.pixels if name in tokens]
    decoded = base.tokenizer.decode(tokens.select(*names)) if names else None
    found = []
    for view in views:
        assert view.tokens is not None, "only tokens can be decoded"
        here = [name for name in names if name in view.tokens]
        table = np.full((len(view.rows), columns.width), np.nan)
        if decoded is not None and here:
            table = columns.table(decoded.select(*here)[view.rows])
        found.append(replace(view, measured=torch.as_tensor(table, dtype=torch.float32)))
    return found


@torch.no_grad()
def encode(network: Any, view: View, asks: Sequence[str] = ()) -> View:
    """Return the view with what the frozen model makes of it, answers about `asks` included."""
    if view.tokens is None:
        return view
    network.eval()
    parts = []
    for i in range(0, len(view.rows), _BATCH):
        part = on_device(take(view.tokens, slice(i, i + _BATCH)), network)
        parts.append(network.encode_and_ask(part, asks))
    # Encoders may cut a batch to its longest object.
    slots = max(x.shape[1] for x, *_ in parts)
    x = torch.cat([F.pad(x.float(), (0, 0, 0, slots - x.shape[1])) for x, *_ in parts])
    mask = torch.cat([F.pad(mask, (0, slots - mask.shape[1])) for _, mask, _ in parts])
    answers = torch.cat([answers.float() for *_, answers in parts])
    measured = view.measured.to(x) if view.measured.shape[1] else x.new_zeros(len(x), 0)
    return replace(view, computed=Features(x, mask, answers, measured))


def batches(
    views: list[View], objects: int, size: int, dropout: float
) -> Iterator[tuple[View, np.ndarray]]:
    """Yield one epoch in random order: each object once, in one of its views."""
    fullest = richest(views, objects)
    options = np.full((len(views), objects), -1.0)
    for i, view in enumerate(views):
        if view.index > 0 or len(views) == 1:
            options[i, view.rows] = torch.rand(len(view.rows)).numpy()
    alone = (torch.rand(objects).numpy() < dropout) & (options.max(0) >= 0)
    chosen = np.where(alone, options.argmax(0), fullest)
    found = []
    for i, view in enumerate(views):
        mine = np.flatnonzero(chosen[view.rows] == i)
        mine = mine[torch.randperm(len(mine)).numpy()]
        found += [(view, mine[j : j + size]) for j in range(0, len(mine), size)]
    for i in torch.randperm(len(found)).tolist():
        yield found[i]


def richest(views: list[View], objects: int) -> np.ndarray:
    """Return the position of the fullest view of each object; views are sorted so."""
    fullest = np.zeros(objects, dtype=int)
    for i in reversed(range(len(views))):
        fullest[views[i].rows] = i
    return fullest


def endless_batches(
    views: list[View], objects: int, size: int, dropout: float
) -> Iterator[tuple[View, np.ndarray]]:
    """Yield the batches of one epoch after the other."""
    while True:
        yield from batches(views, objects, size, dropout)


def on_device(tokens: Tokens, network: Any, keep: float = 1.0) -> Tokens:
    """Return tokens where the network is, a random part of them hidden if `keep` < 1."""
    device = next(network.parameters()).device
    mask = {name: m.to(device) for name, m in tokens.mask.items()}
    if keep < 1:
        thinned = {n: m & (torch.rand(m.shape, device=device) < keep) for n, m in mask.items()}
        # An object that would lose everything keeps all it has.
        left = torch.stack([m.any(1) for m in thinned.values()]).any(0)
        mask = {n: torch.where(left[:, None], thinned[n], m) for n, m in mask.items()}
    return Tokens({name: ids.to(device) for name, ids in tokens.items()}, mask)
