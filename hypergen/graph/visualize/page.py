"""Computational graph → one HTML page that zooms, searches and unfolds blocks, without a network."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any

from hypergen.graph.visualize.kinds import KINDS
from hypergen.graph.visualize.placing import HEADER, PADDING, Box, Level
from hypergen.graph.visualize.scene import DETAIL, LINE, TITLE, Scene

_PARTS = ("page.css", "page.js", "page_actions.js")


def page(scene: Scene, title: str) -> str:
    """The page as text.

    Args:
        scene: The graph with its repeats, laid out without strips.
        title: What the page is called.
    """
    graph = scene.graph
    outputs = set(graph.outputs)
    data = {
        "sizes": {"title": TITLE, "detail": DETAIL, "line": LINE, "padding": PADDING, "header": HEADER},
        "kinds": {kind: colour for kind, (colour, _) in KINDS.items()},
        "nodes": [
            {
                "op": node.op,
                "module": node.module,
                "shape": node.shape,
                "parameters": [[role, name, graph.parameter_shapes[name]] for role, name in node.parameters.items()],
                "shared": [[role, name, graph.parameter_shapes[name]] for role, name in node.shared.items()],
                "attributes": {key: value if _plain(value) else str(value) for key, value in node.attributes.items()},
                "output": i in outputs,
            }
            for i, node in enumerate(graph.nodes)
        ],
        "edges": scene.raw,
        "unused": list(graph.unused_parameters),
        "tied": dict(graph.tied_parameters),
        "level": _level(scene.level(), scene),
    }
    # In a script element, `<` may end it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    folder = files("hypergen.graph.visualize")
    template = folder.joinpath("page.html").read_text(encoding="utf-8")
    for part in _PARTS:  # one file that works offline
        template = template.replace(f"{{{{{part}}}}}\n", folder.joinpath(part).read_text(encoding="utf-8"))
    head, tail = template.split("{{graph}}")
    return head.replace("{{title}}", escape(title)) + text + tail


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or type(value) in (bool, int, str)


def _level(level: Level, scene: Scene) -> dict[str, Any]:
    return {
        "width": round(level.width, 1),
        "height": round(level.height, 1),
        "boxes": [_box(box, scene) for box in level.boxes],
        # Whether it has an arrow, x, y, x, y, …
        "wires": [
            [int(wire.arrow), *(round(value, 1) for corner in wire.corners for value in corner)] for wire in level.wires
        ],
    }


def _box(box: Box, scene: Scene) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "node": box.node,
        "x": round(box.x, 1),
        "y": round(box.y, 1),
        "width": round(box.width, 1),
        "height": round(box.height, 1),
        "title": box.title,
        "shape": box.shape,
    }
    if box.level is None or box.repeat is None:
        return shown | {"details": box.details, "named": box.named, "kind": box.kind}
    repeat, level = box.repeat, box.level
    passed, common = _links(box, scene)
    return shown | {
        "length": repeat.length,
        "count": repeat.count,
        "names": ["–".join(dict.fromkeys(names)) for names in repeat.modules],
        "level": _level(level, scene),
        "entries": [round(x, 1) for x in level.entries.values()],
        "exits": [round(x, 1) for x in level.exits.values()],
        "passed": passed,
        "common": common,
    }


def _links(box: Box, scene: Scene) -> tuple[list[tuple[float, float]], list[float]]:
    """What joins a repetition to the one before it: (x of an exit, x of an entry); and entries that all share."""
    assert box.repeat is not None and box.level is not None
    start, length = box.repeat.start, box.repeat.length
    passed, common = set(), set()
    for node in range(start, start + length):
        for source, later in zip(scene.sources[node], scene.sources[node + length], strict=True):
            if source >= start:
                continue
            entry = round(box.level.entries[scene.shown[source]], 1)
            if later < start:
                common.add(entry)
            else:
                passed.add((round(box.level.exits[scene.shown[later]], 1), entry))
    return sorted(passed), sorted(common)
