"""Traced graphs on disk, by a content hash of the network."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypergen.graph.cache.fingerprint import UnknownContentError, fingerprint
from hypergen.graph.calls import Call, Calls, Value
from hypergen.graph.computational_graph import ComputationalGraph, OpNode, edge_tensor

VARIABLE = "HYPERGEN_CACHE"
_FORMAT = 1
_OFF = frozenset(("", "0", "off", "false", "no"))
_LOG = logging.getLogger(__name__)


def cache_folder(cache: str | Path | bool | None = None) -> Path | None:
    """The folder in which traced graphs are kept; None where none are.

    Args:
        cache: A folder; True for a folder of the user's; False for none; None for what the environment variable
            ``HYPERGEN_CACHE`` says: a folder, ``on`` or ``off``; off where it is not set.
    """
    if cache is None:
        told = os.environ.get(VARIABLE, "")
        cache = told.lower() not in _OFF and (True if told.lower() in ("1", "on", "true", "yes") else told)
    if cache is True:
        import platformdirs

        return Path(platformdirs.user_cache_dir("hypergen")) / "graphs"
    return Path(cache).expanduser() if cache else None


def cached(
    folder: Path, model: nn.Module, args: Any, kwargs: Mapping[str, Any], trace: Callable[[], ComputationalGraph]
) -> ComputationalGraph:
    """The graph from the folder, or from a trace that is then kept there.

    A file that is damaged, or from another version, is written anew; one that cannot be written is left out. Several
    processes may write at once: files appear whole. Networks that cannot be hashed are traced every time, as are those
    that had to be run with real values.

    Args:
        folder: Where graphs are kept.
        model: The network.
        args: Positional arguments of the forward pass.
        kwargs: Keyword arguments of the forward pass.
        trace: Traces it.
    """
    try:
        key = fingerprint(model, args, kwargs)
    except (UnknownContentError, RecursionError) as error:
        _LOG.info("%s is traced every time: %s", type(model).__name__, error)
        return trace()
    path = folder / f"{key}.json"
    graph = load_graph(path, key)
    if graph is None:
        graph = trace()
        if graph.rung != "real":  # else values of parameters may have decided, which are not in the key
            with suppress(OSError, TypeError, ValueError):
                save_graph(graph, path, key)
    return graph


def save_graph(graph: ComputationalGraph, path: Path, key: str) -> None:
    """Write a graph into a file, which appears at once and whole.

    Raises:
        TypeError: An attribute is no plain data.
        OSError: The file cannot be written.
    """
    # The calls have a line of their own: few ask for them, and to read them takes longer than all else.
    calls = "" if graph.calls is None else _text({key: _packed(value) for key, value in vars(graph.calls).items()})
    content = f"{_text(_packed_graph(graph))}\n{calls}"
    head = {"format": _FORMAT, "key": key, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{json.dumps(head)}\n{content}")
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _text(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


def load_graph(path: Path, key: str) -> ComputationalGraph | None:
    """Read a graph; None where there is none, or none that is whole, of this version and for this key."""
    try:
        head, content = path.read_bytes().split(b"\n", 1)
        expected = {"format": _FORMAT, "key": key, "sha256": hashlib.sha256(content).hexdigest()}
        if json.loads(head) != expected:
            return None
        data, calls = content.split(b"\n", 1)
        return _unpacked_graph(json.loads(data), calls)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _packed_graph(graph: ComputationalGraph) -> dict[str, Any]:
    modules = {name: i for i, name in enumerate(dict.fromkeys(node.module for node in graph.nodes))}
    return {
        "modules": list(modules),
        "nodes": [
            [
                node.op,
                modules[node.module],
                dict(node.parameters),
                list(node.shape),
                {key: _packed(value) for key, value in node.attributes.items()},
                dict(node.shared),
            ]
            for node in graph.nodes
        ],
        "edges": graph.edges.tolist(),
        "rest": {
            field.name: _packed(getattr(graph, field.name))
            for field in fields(ComputationalGraph)
            if field.init and field.name not in ("nodes", "edges", "calls")
        },
    }


def _unpacked_graph(data: dict[str, Any], calls: bytes) -> ComputationalGraph:
    modules = data["modules"]
    sources, targets = data["edges"]

    def node(op: str, module: int, roles: Any, shape: list[int], attributes: dict[str, Any], shared: Any) -> OpNode:
        unpacked = {key: _unpacked(value) for key, value in attributes.items()}
        return OpNode(op, modules[module], roles, tuple(shape), unpacked, shared)

    return ComputationalGraph(
        tuple([node(*packed) for packed in data["nodes"]]),
        edge_tensor(list(zip(sources, targets, strict=True))),
        calls=_StoredCalls(calls) if calls else None,
        **{name: _unpacked(value) for name, value in data["rest"].items()},
    )


class _StoredCalls(Calls):
    """Calls that are read from their text when somebody asks for them."""

    def __init__(self, text: bytes) -> None:
        object.__setattr__(self, "_text", text)

    def __getattr__(self, name: str) -> Any:
        if name not in Calls.__dataclass_fields__:
            raise AttributeError(name)
        self.__dict__.update({key: _unpacked(value) for key, value in json.loads(self._text).items()})
        return self.__dict__[name]


_PLAIN = frozenset((type(None), bool, int, float, str))


def _packed(value: Any) -> Any:
    """A value as JSON: plain ones as they are, others as a list that starts with what they are."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is Value:
        return ["value", int(value)]
    if kind in (tuple, list, torch.Size, Call):
        return [kind.__name__, *[_packed(item) for item in value]]
    if kind is frozenset:
        return ["frozenset", *sorted(_packed(item) for item in value)]
    if isinstance(value, Mapping):
        return ["dict", *[[_packed(key), _packed(item)] for key, item in value.items()]]
    if kind is slice:
        return ["slice", _packed(value.start), _packed(value.stop), _packed(value.step)]
    if kind is torch.dtype:
        return ["dtype", str(value).removeprefix("torch.")]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if value is ...:
        return ["ellipsis"]
    raise TypeError(f"{value!r} is no plain data")


def _unpacked(value: Any) -> Any:
    return value if type(value) is not list else _BUILDERS[value[0]](value)


def _items(packed: list[Any]) -> list[Any]:
    return [item if type(item) is not list else _BUILDERS[item[0]](item) for item in packed[1:]]


def _data_type(packed: list[Any]) -> torch.dtype:
    found = getattr(torch, packed[1])
    if not isinstance(found, torch.dtype):
        raise ValueError(packed[1])
    return found


_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "value": lambda packed: Value(packed[1]),
    "tuple": lambda packed: tuple(_items(packed)),
    "list": _items,
    "Call": lambda packed: Call(*_items(packed)),
    "frozenset": lambda packed: frozenset(_items(packed)),
    "Size": lambda packed: torch.Size(_items(packed)),
    "dict": lambda packed: {_unpacked(key): _unpacked(item) for key, item in packed[1:]},
    "slice": lambda packed: slice(*_items(packed)),
    "dtype": _data_type,
    "complex": lambda packed: complex(packed[1], packed[2]),
    "ellipsis": lambda packed: ...,
}
