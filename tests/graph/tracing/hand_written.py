"""Graphs written by hand, and the networks that they are written for.

A graph is written one operation a line, ``name = op(sources) details``, in the order in which they run::

    x = input()
    y = conv2d(x) [conv] @stride=(2, 2)    # [conv]: weight=conv.weight bias=conv.bias
    z = linear(y) ~weight=table.weight     # ~: shared, of an earlier operation
    return z

Parameters and shared ones are given in full, attributes (``@``) as far as a network is about them.
"""

import ast
import re

import torch
from torch import nn

from hypergen.graph import trace
from hypergen.graph.properties import violations

LINE = re.compile(r"(\w+) = (\w+)\(([\w, ]*)\)(.*)")
DETAIL = re.compile(r"\[([\w.]+)\]|([@~]?)(\w+)=((?:\([^)]*\)|'[^']*'|[^\s])+)")


class Net(nn.Module):
    """A network of named parts and a function of them."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def parameter(*shape):
    return nn.Parameter(torch.zeros(shape))


def check(net, inputs, written, unused=()):
    """Compare the traced graph with the written one; return the traced one."""
    graph = trace(net, inputs)
    assert violations(graph, net) == []
    incoming = [[] for _ in graph.nodes]
    for source, target in graph.edges.t().tolist():
        incoming[target].append(source)
    numbers, expected, returned = {}, [], []
    for line in filter(None, (line.partition("#")[0].strip() for line in written.splitlines())):
        if line.startswith("return"):
            returned = [numbers[name] for name in re.findall(r"\w+", line)[1:]]
            continue
        name, op, sources, details = LINE.fullmatch(line).groups()
        parameters, shared, attributes = {}, {}, {}
        for module, mark, key, value in DETAIL.findall(details):
            if module:
                parameters |= {"weight": f"{module}.weight", "bias": f"{module}.bias"}
            elif mark == "@":
                attributes[key] = ast.literal_eval(value)
            else:
                (shared if mark else parameters)[key] = value
        numbers[name] = len(expected)
        expected.append((op, [numbers[s] for s in re.findall(r"\w+", sources)], parameters, shared, attributes))
    traced = [
        (
            node.op,
            incoming[i],
            dict(node.parameters),
            dict(node.shared),
            {key: node.attributes.get(key) for key in (expected[i][4] if i < len(expected) else ())},
        )
        for i, node in enumerate(graph.nodes)
    ]
    assert traced == expected
    assert list(graph.outputs) == returned
    assert graph.unused_parameters == tuple(unused)
    return graph
