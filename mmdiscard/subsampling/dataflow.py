"""Record which tensors of a forward are computed from which others, operator by operator.

NaN in the place of the image, or two images that differ, would tell the same with one forward per
question. But models that clean NaN, assert finite input, or turn values into addresses (deformable
convolutions) answer NaN wrongly or crash, and small differences die in saturated activations and
drown in rounding. The operators depend on no value, and one forward answers every question.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

NESTS = (tuple, list, dict)
IMAGE = 0  # the node of the image
# What operators cost, by PyTorch; up to 2.1 these formulas stood under another name.
FORMULAS = getattr(flop_counter, 'flop_registry', None) or flop_counter.flop_mapping


@dataclass(frozen=True)
class Dataflow:
    """The dependencies of one forward.

    Nodes are the writes to memory, numbered in execution order; node 0 is the image.

    Attributes:
        sources: by node, the earlier nodes that it was computed from.
        marks: by module name, the nodes of what the module put out.
        levels: by output level of the backbone, its node; None if nothing was seen to write it.
    """

    sources: tuple[tuple[int, ...], ...]
    marks: dict[str, tuple[int, ...]]
    levels: tuple[int | None, ...]

    def levels_reached(self, start: Iterable[int], held: Iterable[str] = ()) -> tuple[int, ...]:
        """Output levels that depend on nodes while what some modules put out is constant.

        Args:
            start: the nodes.
            held: names of the modules.
        """
        blocked = {node for name in held for node in self.marks[name]}
        reached = _reached(self.sources, start, 0, blocked)
        return tuple(i for i, node in enumerate(self.levels) if node in reached)


class DataflowRecorder(TorchDispatchMode):
    """Records a `Dataflow` while it is active.

    Tensors that share memory share a node, so a view depends on all that its memory depends on: too
    many dependencies may be seen, never too few. What PyTorch's dispatcher does not see, such as
    extensions of other packages, has to be given by `connect`.

    Args:
        image: the input of the forward.

    Attributes:
        flops: floating-point operations so far, two per multiply-accumulate.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.flops = 0
        self.sources: list[tuple[int, ...]] = [()]
        self._writers: dict[int, int] = {}
        self._storages: list[StorageWeakRef] = []  # keep the identities of freed memory unique
        self._write(image, IMAGE)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        self.flops += _flops(func, args, kwargs, output)
        if not _reads_shape_only(func):
            self._record(func, args, kwargs, output)
        return output

    def nodes(self, values: Any) -> list[int | None]:
        """The node of each tensor in ``values``, nested or not; None if it is a constant."""
        return [self._writers.get(_key(tensor)) for tensor in tensors_in(values)]

    def connect(self, sources: Iterable[int], outputs: Any) -> None:
        """Let the tensors in ``outputs`` depend on further nodes."""
        for tensor in tensors_in(outputs):
            self._add([tensor], {*sources, *self.nodes(tensor)})

    def depends(self, outputs: Any, source: int, since: int) -> bool:
        """Whether nodes from ``since`` on computed a tensor in ``outputs`` from node ``source``.

        Args:
            outputs: tensors, nested or not.
            source: a node.
            since: the first node to follow.
        """
        reached = _reached(self.sources, [source], since)
        return any(node in reached for node in self.nodes(outputs))

    def _record(self, func: Any, args: tuple, kwargs: dict, output: Any) -> None:
        read = [_key(tensor) for tensor in tensors_in((args, kwargs))]
        views_left_out = [t for t in tensors_in(output) if _key(t) not in read]
        written = [*views_left_out, *_written(func, args, kwargs)]
        self._add(written, map(self._writers.get, read))

    def _add(self, written: list[Tensor], sources: Iterable[int | None]) -> None:
        known = tuple(sorted({node for node in sources if node is not None}))
        if known and written:
            self.sources.append(known)
            for tensor in written:
                self._write(tensor, len(self.sources) - 1)

    def _write(self, tensor: Tensor, node: int) -> None:
        key = _key(tensor)
        if key not in self._writers:
            self._storages.append(StorageWeakRef(tensor.untyped_storage()))
        self._writers[key] = node


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if not isinstance(values, NESTS):
        return []
    found = []
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, NESTS):  # a call for every leaf would take long
            found += tensors_in(value)
    return found


def maps_in(values: Any) -> list[Tensor]:
    """Tensors in nested containers that have a height and a width."""
    return [tensor for tensor in tensors_in(values) if tensor.ndim > 2]


def _reached(
    sources: list | tuple, start: Iterable[int], since: int, blocked: Collection[int] = ()
) -> set[int]:
    """Nodes that depend on ``start``, itself included, by way of nodes from ``since`` on."""
    reached = set(start)
    for node in range(since, len(sources)):
        if node not in blocked and not reached.isdisjoint(sources[node]):
            reached.add(node)
    return reached


def _key(tensor: Tensor) -> int:
    """Key of the memory that a tensor uses."""
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: tuple, kwargs: dict) -> list[Tensor]:
    """The arguments that an operator writes to."""
    schema = func._schema
    if not schema.is_mutable:
        return []
    given = zip(schema.arguments, args, strict=False)
    values = {argument.name: value for argument, value in given} | kwargs
    return tensors_in(
        [
            values.get(argument.name)
            for argument in schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
    )


@cache
def _reads_shape_only(func: torch._ops.OpOverload) -> bool:
    """Whether the output is new and has nothing of a tensor argument but its shape."""
    name = func._schema.name.partition('::')[2]
    return name.endswith('_like') or name.startswith('new_')


def _flops(func: torch._ops.OpOverload, args: tuple, kwargs: dict, output: Any) -> int:
    """Cost of an operator by the formulas of `FlopCounterMode`, without its additional forward."""
    formula = FORMULAS.get(func._overloadpacket)
    if formula is None:
        return 0
    by_shape = getattr(formula, '__wrapped__', formula)  # newer ones are wrapped to take tensors
    return by_shape(*map(_shape, args), **kwargs, out_shape=_shape(output))


def _shape(leaf: Any) -> Any:
    return leaf.shape if isinstance(leaf, Tensor) else leaf
