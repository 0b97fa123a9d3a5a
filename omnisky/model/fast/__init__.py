"""What blocks compute, in the way that is fast on this device, or that keeps little in training."""

from omnisky.model.fast.few import FewKernels, few_kernels
from omnisky.model.fast.verbs import (
    add_mlp,
    add_product,
    attend_densely,
    attend_normed_densely,
    attends_by_object,
    product,
    warn_if_imitated,
)

__all__ = [
    "FewKernels",
    "add_mlp",
    "add_product",
    "attend_densely",
    "attend_normed_densely",
    "attends_by_object",
    "few_kernels",
    "product",
    "warn_if_imitated",
]
