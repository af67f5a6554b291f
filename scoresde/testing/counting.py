"""What a piece of code asks of its tensors: operations, and reads of the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALLOCATIONS = frozenset(("empty", "empty_like", "empty_strided", "new_empty", "new_zeros"))
_INDEXING = frozenset(("index", "index_put", "index_put_"))


class OperationCounter(TorchDispatchMode):
    """Counts tensor operations and reads of the device inside a `with` block.

    An operation computes or copies: views and bare allocations do not count. A read makes the
    host wait for the device: a value as a Python number, a shape that depends on values, a mask
    as an index, a copy to the host. `Tensor.tolist` and `.numpy` pass unseen; they fail on the
    meta device, so run there too.

    Attributes:
        operations: names of the operations, in order.
        reads: names of those that read, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.reads: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        computes = any(isinstance(r, Tensor) for r in tree_leaves(result))
        if computes and not func.is_view and name not in _ALLOCATIONS:
            self.operations.append(name)
        if _reads(func, name, tree_leaves(args), result):
            self.reads.append(name)
        return result


def _reads(func: Any, name: str, arguments: list[Any], result: Any) -> bool:
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if name in _INDEXING:
        return any(a.dtype in (torch.bool, torch.uint8) for a in tensors[1:])
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return True
    arrives = isinstance(result, Tensor) and result.device.type == "cpu"
    return arrives and any(a.device.type != "cpu" for a in tensors)


def count_operations(function: Callable[[], Any]) -> OperationCounter:
    """Run a function of no arguments, and return the counter of what it did."""
    with OperationCounter() as counter:
        function()
    return counter
