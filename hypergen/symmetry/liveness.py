"""What of a network the recorded passes say nothing about: it stays as it is, with all that it may touch.

A pass shows one way through a network. A head that it does not run reads some hidden units, though nobody saw which;
units that are computed and then dropped may be read on another way. Neither may be permuted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, combinations_with_replacement
from operator import mul
from typing import Any

from hypergen.graph.calls import Call, Calls, Value
from hypergen.symmetry.axes import Axis, Choice, find, freeze, parts
from hypergen.symmetry.unify import unify

NOT_READ = "not read in the traced pass"
_MANY = 16
DROPPED = "does not reach the outputs in the traced pass"


def values_in(argument: Any) -> list[Value]:
    """The tensors in nested arguments."""
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, dict):
        argument = tuple(argument.values())
    if isinstance(argument, slice):
        argument = (argument.start, argument.stop, argument.step)
    return [value for item in argument for value in values_in(item)] if isinstance(argument, (tuple, list)) else []


def followed_calls(calls: Calls, returned: Sequence[Value]) -> list[Call]:
    """The calls that say something about parameters: those the outputs depend on, and heads that reach no output.

    Of the others, as of checks of sizes, only shapes are read.
    """
    reads = [values_in((call.args, call.kwargs)) for call in calls.calls]
    live = _ancestors(calls, reads, returned)
    read = {value for number in live for value in reads[number]}
    of_heads = {value for value in calls.parameters.values() if value not in read}
    made: set[Any] = set()
    for number, call in enumerate(calls.calls):
        if number not in live and not of_heads.isdisjoint(reads[number]):
            of_heads.update(call.outputs)
            made.update(call.outputs)
    if made:
        live = _ancestors(calls, reads, [*returned, *made])
    return [calls.calls[number] for number in sorted(live)]


def _ancestors(calls: Calls, reads: Sequence[Sequence[Value]], goals: Iterable[Value]) -> set[int]:
    """The numbers of the calls on which these values depend, with those that write into a tensor or read a value."""
    live = {*calls.opaque, *goals}
    seen = set(calls.shapes)
    writes = set()
    for number, call in enumerate(calls.calls):
        if not seen.isdisjoint(call.outputs) or not call.outputs:
            writes.add(number)
        seen.update(call.outputs)
    kept = set()
    for number in range(len(calls.calls) - 1, -1, -1):
        if number in writes or not live.isdisjoint(calls.calls[number].outputs):
            live.update(reads[number])
            kept.add(number)
    return kept


def freeze_unsummed(named: Mapping[str, Sequence[Axis]], summed: Iterable[Axis], read: Collection[str]) -> None:
    """Freeze units that nothing sums over: they are not read, or what is computed of them reaches no output.

    Slices of a parameter that are not read, as the rest of a table of positions, follow those that are.
    """
    reached = {leaf for axis in summed for leaf in _leaves(axis)}
    for axes in named.values():
        for axis in axes:
            for chosen in _choices(axis):
                known = [option for option in chosen.options if not reached.isdisjoint(_leaves(option))]
                if known and all(find(option) is find(known[0]) for option in known):
                    for option in chosen.options:
                        unify(known[0], option)
                    reached = {leaf for axis in reached for leaf in _leaves(axis)}
    for name, axes in named.items():
        for axis in axes:
            for leaf in _leaves(axis):
                if leaf.size > 1 and leaf not in reached:
                    freeze(leaf, DROPPED if name in read else NOT_READ)


def _leaves(axis: Axis) -> list[Axis]:
    axis = find(axis)
    return [leaf for part in parts(axis) for leaf in _leaves(part)] if axis.structure is not None else [axis]


def _choices(axis: Axis) -> list[Choice]:
    structure = find(axis).structure
    inner = [chosen for part in parts(axis) for chosen in _choices(part)]
    return [structure, *inner] if isinstance(structure, Choice) else inner


def freeze_unread(
    named: Mapping[str, Sequence[Axis]], unread: Sequence[str], tensors: Iterable[Sequence[Axis]]
) -> None:
    """Freeze all units that parameters may read that no pass read, as far as sizes tell.

    An axis of a hidden tensor counts as touched where an axis of such a parameter has its size, or the size of that
    tensor's axes flattened together. Inputs of a size that nothing has count as two axes after one another, else as
    any axis of which they are a multiple, as after pooling and flattening.

    Args:
        named: Name of a parameter → its axes.
        unread: The parameters that no pass read.
        tensors: The axes of all tensors of the passes.
    """
    unread = [name for name in unread if all(axis.size for axis in named[name])]
    wanted = _sizes_of(named, unread, (0, 1))
    if not wanted:
        return
    own = {id(axis) for name in unread for axis in named[name]}
    unique = {tuple(map(id, axes)): axes for axes in tensors if any(id(axis) not in own for axis in axes)}
    touched: dict[int, list[Axis]] = {}
    for axes in unique.values():
        for start in range(len(axes)):
            for length, size in enumerate(accumulate((axis.size for axis in axes[start:]), mul), 1):
                if size in wanted:
                    touched.setdefault(size, []).extend(axes[start : start + length])
    hidden = {axis.size for axes in unique.values() for axis in axes if axis.size > 1}
    made = {named[name][0].size for name in unread if len(named[name]) > 1}
    for size in _sizes_of(named, unread, (1,)):
        within = any(size == one or (size % one == 0 and one >= _MANY) for one in made)  # an input of the head itself
        if size not in touched and not within:
            fitting = {one for pair in combinations_with_replacement(hidden, 2) if sum(pair) == size for one in pair}
            fitting = fitting or {one for one in hidden if size % one == 0}
            touched[size] = [axis for axes in unique.values() for axis in axes if axis.size in fitting]
    for size, axes in touched.items():
        for axis in axes:
            freeze(axis, f"may be read by {wanted[size]!r}, which was {NOT_READ}")


def _sizes_of(named: Mapping[str, Sequence[Axis]], unread: Sequence[str], dims: Sequence[int]) -> dict[int, str]:
    """Size of an axis → the first parameter that has it; places in kernels apart."""
    sizes: dict[int, str] = {}
    for name in unread:
        axes = named[name]
        for dim, axis in enumerate(axes):
            if axis.size > 1 and (dim in dims or (len(axes) == 3 and 1 in dims and dim == 2)):
                sizes.setdefault(axis.size, name)
    return sizes


def unread_modules(parameters: Iterable[str], read: Collection[str]) -> list[str]:
    """What was not read, in words: a module where nothing of it was, else a parameter."""
    parameters = list(parameters)
    partly = {""}
    for name in parameters:
        if name in read:
            pieces = name.split(".")
            partly.update(".".join(pieces[:count]) for count in range(1, len(pieces) + 1))
    found = []
    for name in parameters:
        if name not in read:
            pieces = name.split(".")
            prefixes = (".".join(pieces[:count]) for count in range(1, len(pieces) + 1))
            found.append(next(prefix for prefix in prefixes if prefix not in partly))
    return [f"{name} ({NOT_READ})" for name in dict.fromkeys(found)]
