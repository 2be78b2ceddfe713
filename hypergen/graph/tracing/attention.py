"""Attention that is written out in single operations becomes one node, as where a network calls the fused operation.

Written out, attention is a product of queries and keys, whatever scales, biases and masks are applied to it, a softmax,
and a product with the values. The order of the steps, the layout of the axes and the spelling of the products
(``matmul``, ``bmm``, ``baddbmm``, ``einsum``) differ from network to network; the dataflow does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from hypergen.graph.computational_graph import OpNode
from hypergen.graph.operations import SHAPE_OPS

ATTENTION = "scaled_dot_product_attention"

_PRODUCTS = frozenset(("matmul", "bmm", "baddbmm", "einsum"))
_VIEWS = frozenset(("reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "transpose"))
_ADDITIVE = frozenset(("add", "sub", "baddbmm"))
# What may make a bias of others, and what may then take it.
_BIASES = frozenset(("add", "where", "masked_fill"))
_TAKE_BIASES = _ADDITIVE | _BIASES | {ATTENTION}
# What may happen to the scores before the softmax, and to the weights after it.
_BEFORE = _VIEWS | {
    "mul", "div", "add", "sub", "masked_fill", "where", "clamp", "tanh", "max", "maximum", "amax", "nan_to_num",
    "getitem", "setitem", "cat",
}  # fmt: skip
_AFTER = _VIEWS | {"mul", "div", "sum", "masked_fill", "where", "nan_to_num", "getitem"}

Operand = tuple[Tensor, object]  # with its origin: a number is that of a node


@dataclass
class _Attention:
    """Nodes that are one attention, and the nodes that they read."""

    nodes: set[int]
    last: int
    operands: list[int]  # queries, keys and values, as far as they are nodes
    biases: list[int]
    query: int
    key: int
    head_dim: int
    heads: int
    # Written for columns, `values @ weights.mT`: what has to be transposed for rows, and its shape then.
    turned: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


def fold_attention(
    nodes: Sequence[OpNode],
    edges: Iterable[tuple[int, int]],
    operands: Mapping[int, Sequence[Operand]],
    outputs: Sequence[int],
) -> tuple[list[OpNode], list[tuple[int, int]], tuple[int, ...]]:
    """Fold every attention into one node, with the attributes ``num_heads`` and ``head_dim``.

    The node takes the place of the product with the values, and the parameters of what it replaces: those that were
    added to the scores are its ``attn_mask``. A scale that is a number, before or within the attention, and the
    transposition of the keys belong to it. Scores that are read elsewhere keep an attention from being folded; the
    weights may be read, as a second output.

    Nodes without parameters that no output depends on, such as those of a test of values, go, too: they tell nothing.

    Args:
        nodes: The operations in the order in which they ran.
        edges: Source → target.
        operands: Node → the tensors that it read, and where they come from.
        outputs: The nodes whose values the network returns; none where that is not known.

    Returns:
        Nodes, edges and outputs of the graph with the attentions folded.
    """
    return _Folder(nodes, edges, operands, outputs).folded()


class _Folder:
    def __init__(
        self,
        nodes: Sequence[OpNode],
        edges: Iterable[tuple[int, int]],
        operands: Mapping[int, Sequence[Operand]],
        outputs: Sequence[int],
    ) -> None:
        self.nodes = list(nodes)
        self.operands = operands
        self.outputs = outputs
        self.incoming: list[list[int]] = [[] for _ in nodes]
        self.readers: list[set[int]] = [set() for _ in nodes]
        for source, target in edges:
            self.incoming[target].append(source)
            self.readers[source].add(target)
        for output in outputs:
            self.readers[output].add(len(nodes))  # the caller
        self.dead = self._dead_ends() if outputs else set()
        self.turned: dict[int, list[tuple[int, tuple[int, ...]]]] = {}  # by attention
        self.instead: dict[int, int] = {}  # a node that goes → the one that hands on its value

    def _dead_ends(self) -> set[int]:
        dead: set[int] = set()
        for i in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[i]
            self.readers[i] -= dead
            if not self.readers[i] and node.op != "input" and not node.parameters and not node.shared:
                dead.add(i)
        return dead

    def folded(self) -> tuple[list[OpNode], list[tuple[int, int]], tuple[int, ...]]:
        for i, node in enumerate(tuple(self.nodes)):
            if node.op == "softmax":
                attention = self._written_out(i)
            elif node.op == ATTENTION:
                attention = self._fused(i)
            else:
                continue
            if attention:
                self._absorb(attention)
                self._replace(attention)
        numbers: dict[int, int] = {}
        kept: list[OpNode] = []
        edges: list[tuple[int, int]] = []

        def keep(node: OpNode, sources: Iterable[int]) -> int:
            kept.append(node)
            edges.extend((source, len(kept) - 1) for source in dict.fromkeys(sources))
            return len(kept) - 1

        for i, node in enumerate(self.nodes):
            if i in self.instead or i in self.dead:
                continue
            sources = [numbers[self._standing_in(source)] for source in self.incoming[i]]
            if i in self.turned:
                turned = [(numbers[self._standing_in(source)], shape) for source, shape in self.turned[i]]
                others = [s for s in sources[1:] if s not in dict(turned)]
                turns = [keep(_transposed(node, shape), [source]) for source, shape in turned]
                rows = keep(replace(node, shape=_swapped(node.shape)), [sources[0], *turns, *others])
                numbers[i] = keep(_transposed(node, node.shape), [rows])
            else:
                numbers[i] = keep(node, sources)
        outputs = dict.fromkeys(numbers[self._standing_in(output)] for output in self.outputs)
        return kept, edges, tuple(outputs)

    def _standing_in(self, node: int) -> int:
        while node in self.instead:
            node = self.instead[node]
        return node

    # Recognition

    def _fused(self, index: int) -> _Attention | None:
        operands = self.operands[index]
        query, key, *_ = origins = [_node(operand) for operand in operands]
        size = operands[0][0].shape[-1]
        heads = self._heads(index, operands[0][0].shape[:-2], self.nodes[index].shape[-1])
        return _Attention({index}, index, _known(origins[:3]), _known(origins[3:]), query, key, size, heads)

    def _written_out(self, softmax: int) -> _Attention | None:
        node = self.nodes[softmax]
        if node.attributes.get("dim") != len(node.shape) - 1 or len(node.shape) < 3:
            return None
        product = self._product_before(softmax, set())
        last = self._product_after(softmax)
        if product is None or last is None:
            return None
        before = self._between(product, softmax)
        after = self._between(softmax, last)
        names = [self.nodes[i].op for i in before]
        if not all(name in _BEFORE for name in names) or not all(self.nodes[i].op in _AFTER for i in after):
            return None
        scores = {product, *before}
        inside = {*scores, softmax, *after, last}
        if any(not self.readers[i] <= inside for i in scores):
            return None
        if any(reader <= last and reader not in inside for i in (softmax, *after) for reader in self.readers[i]):
            return None
        query, key = [_node(operand) for operand in self._factors(product)]
        rows = _node(self._factors(last)[0]) in inside  # weights @ values
        swapped = sum(self.nodes[i].op == "transpose" for i in after) % 2 == 1
        if self.nodes[last].op != "einsum" and rows == swapped:  # a sum over the queries
            return None
        values = [_node(operand) for operand in self._factors(last) if operand[1] not in inside]
        others = [_node(operand) for i in sorted(inside) for operand in self.operands[i]]
        operands = _known([query, key, *values])
        biases = [i for i in _known(others) if i not in inside and i not in operands]
        size, batch = self._contraction(product)
        heads = self._heads(last, batch, self._value_size(last, inside))
        columns = () if rows or self.nodes[last].op == "einsum" else (self._factors(product)[1], self._factors(last)[0])
        turned = [(_node(operand), _swapped(operand[0].shape)) for operand in columns if _node(operand) >= 0]
        return _Attention(inside, last, operands, biases, query, key, size, heads, turned)

    def _factors(self, product: int) -> Sequence[Operand]:
        return self.operands[product][-2:]  # after what baddbmm adds

    def _product_before(self, index: int, seen: set[int]) -> int | None:
        """The product of queries and keys that reaches a node as scores, through what keeps their last two axes."""
        for tensor, origin in self.operands[index]:
            if not isinstance(origin, int) or origin in seen or tensor.dim() < 3:
                continue
            seen.add(origin)
            node = self.nodes[origin]
            if tensor.shape[-2] not in self.nodes[index].shape[-2:] or origin in self.instead:
                continue
            if node.op in _PRODUCTS:
                if all(_node(operand) >= 0 for operand in self._factors(origin)):
                    return origin
            elif node.op in _BEFORE:
                found = self._product_before(origin, seen)
                if found is not None:
                    return found
        return None

    def _product_after(self, softmax: int) -> int | None:
        """The one product that the weights reach."""
        products, ahead, seen = set(), [softmax], {softmax}
        while ahead:
            for reader in self.readers[ahead.pop()] - seen:
                seen.add(reader)
                if reader == len(self.nodes):
                    continue
                if self.nodes[reader].op in _PRODUCTS:
                    products.add(reader)
                elif self.nodes[reader].op in _AFTER:
                    ahead.append(reader)
        return products.pop() if len(products) == 1 else None

    def _between(self, first: int, last: int) -> list[int]:
        """The nodes on the ways from one node to another."""
        forwards = {first}
        for i in range(first + 1, last):
            if forwards.intersection(self.incoming[i]):
                forwards.add(i)
        backwards = {last}
        for i in range(last - 1, first, -1):
            if self.readers[i] & backwards:
                backwards.add(i)
        return sorted((forwards & backwards) - {first, last})

    # Attributes

    def _contraction(self, product: int) -> tuple[int, tuple[int, ...]]:
        """The length of the axis that a product of queries and keys sums over, and those that it keeps beside."""
        (query, _), (key, _) = self._factors(product)
        equation = self.nodes[product].attributes.get("equation")
        if self.nodes[product].op != "einsum" or not isinstance(equation, str) or "." in equation:
            return query.shape[-1], tuple(query.shape[:-2])
        terms, _, result = equation.replace(" ", "").partition("->")
        one, _, other = terms.partition(",")
        sizes = dict(zip(one, query.shape, strict=False)) | dict(zip(other, key.shape, strict=False))
        summed = math.prod(sizes[letter] for letter in one if letter in other and letter not in result)
        return summed, tuple(sizes[letter] for letter in result if letter in one and letter in other)

    def _value_size(self, last: int, inside: set[int]) -> int:
        values = [tensor for tensor, origin in self._factors(last) if origin not in inside]
        return int(values[0].shape[-1]) if values else self.nodes[last].shape[-1]

    def _heads(self, last: int, batch: Sequence[int], size: int) -> int:
        """The number of heads: with all axes but one for the batch, the second; else told by where they are joined."""
        if len(batch) == 2:
            return int(batch[1])
        joined = last
        while len(self.readers[joined]) == 1:
            (reader,) = self.readers[joined]
            if reader == len(self.nodes) or self.nodes[reader].op not in SHAPE_OPS:
                break
            joined = reader
        features = self.nodes[joined].shape[-1] if self.nodes[joined].shape else 0
        heads = features // size if size and features % size == 0 else 0
        if heads and (heads in batch if len(batch) > 1 else math.prod(batch) % heads == 0):
            return heads
        return int(batch[-1]) if len(batch) > 1 else 1

    # Folding

    def _absorb(self, attention: _Attention) -> None:
        """Take in what is done for the attention alone: scales, the transposition of the keys, sums of biases."""
        if len(attention.nodes) > 1 and self._swaps_last_axes(attention.key, attention.nodes):
            attention.turned = attention.turned[1:]
            attention.key = self._skip(attention.key)
        for start in (attention.query, attention.key):
            current, only = start, attention.nodes
            while current >= 0 and self.readers[current] <= only:
                only = {current}
                if self._is_scale(current):
                    current = self._skip(current)
                    only = only | self.readers[current] & attention.nodes
                elif self.nodes[current].op in SHAPE_OPS and len(self.incoming[current]) == 1:
                    (current,) = self.incoming[current]
                else:
                    break
        waiting, attention.biases = attention.biases, []
        while waiting:
            bias = waiting.pop(0)
            if self._adds_bias(bias, attention):
                attention.nodes.add(bias)
                waiting = _known([*self.incoming[bias], *waiting])
            else:
                attention.biases.append(bias)

    def _adds_bias(self, index: int, attention: _Attention) -> bool:
        if self.nodes[index].op not in _BIASES or not self.readers[index] <= attention.nodes:
            return False
        return all(self.nodes[reader].op in _TAKE_BIASES for reader in self.readers[index])

    def _swaps_last_axes(self, index: int, only: set[int]) -> bool:
        node = self.nodes[index]
        axes = {node.attributes.get("dim0"), node.attributes.get("dim1")}
        rank = len(node.shape)
        return node.op == "transpose" and axes == {rank - 2, rank - 1} and self.readers[index] <= only

    def _is_scale(self, index: int) -> bool:
        node, operands = self.nodes[index], self.operands.get(index, ())
        if node.op not in ("mul", "div") or node.parameters or node.shared or len(self.incoming[index]) != 1:
            return False
        return all(origin == () and tensor.numel() == 1 for tensor, origin in operands[1:])

    def _skip(self, index: int) -> int:
        """Let the only source of a node stand in for it."""
        (source,) = self.incoming[index]
        self.instead[index] = source
        self.readers[source] = (self.readers[source] - {index}) | self.readers[index]
        for reader in self.readers[index]:
            if reader < len(self.nodes):
                self.incoming[reader] = [source if i == index else i for i in self.incoming[reader]]
        return source

    def _replace(self, attention: _Attention) -> None:
        parameters: dict[str, str] = {}
        shared: dict[str, str] = {}
        for i in sorted(attention.nodes):
            node = self.nodes[i]
            for roles, found in ((parameters, node.parameters), (shared, node.shared)):
                for role, name in found.items():
                    base = "attn_mask" if node.op in _ADDITIVE else role
                    _put(roles, base, name)
        last = self.nodes[attention.last]
        attributes = {"num_heads": attention.heads, "head_dim": attention.head_dim}
        if last.attributes.get("is_causal"):
            attributes["is_causal"] = True
        self.nodes[attention.last] = replace(
            last, op=ATTENTION, parameters=parameters, attributes=attributes, shared=shared
        )
        reads = self.incoming[attention.last] = _known(map(self._standing_in, attention.operands + attention.biases))
        for source in reads:
            self.readers[source] = self.readers[source] - attention.nodes | {attention.last}
        if attention.turned:
            self.turned[attention.last] = attention.turned
        for i in attention.nodes - {attention.last}:
            self.instead[i] = attention.last
            self.readers[attention.last] |= self.readers[i] - attention.nodes


def _node(operand: Operand) -> int:
    """The node that an operand comes from; -1 for parameters and constants."""
    return operand[1] if isinstance(operand[1], int) else -1


def _swapped(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2])


def _transposed(node: OpNode, shape: tuple[int, ...]) -> OpNode:
    """A transposition of the last two axes beside a node, to this shape."""
    return OpNode("transpose", node.module, shape=shape, attributes={"dim0": len(shape) - 2, "dim1": len(shape) - 1})


def _known(origins: Iterable[int]) -> list[int]:
    """Nodes once each, in order, without what is no node."""
    return [origin for origin in dict.fromkeys(origins) if origin >= 0]


def _put(roles: dict[str, str], role: str, name: str) -> None:
    number, free = 0, role
    while free in roles:
        number += 1
        free = f"{role}{number}"
    roles[free] = name
