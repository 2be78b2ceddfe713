"""Checks a Hydra configuration against the signatures of what it binds, before anything is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from hypergen.errors import HypergenError
from hypergen.functional.arguments import annotations_of, problem_of

_SHOWN = 5


def check_config(config: Any) -> None:
    """Compare values below nodes with a ``_target_`` with their types in its signature, and their names' ranges.

    Only numbers, text, truth values, and lists and mappings of these are judged.

    Args:
        config: A node of the configuration, with interpolations.

    Raises:
        HypergenError: Values are of other types or out of range; the message names each by its place.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    problems = list(dict.fromkeys(_problems(plain, "")))
    if problems:
        more = f"\nand {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise HypergenError("\n".join(problems[:_SHOWN]) + more)


def _problems(node: Any, place: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        hints = _hints(node.get("_target_"))
        for key, value in node.items():
            where = f"{place}.{key}" if place else str(key)
            if "_target_" in node and (problem := problem_of(str(key), value, hints.get(key, Any))):
                yield f"{where} is {value!r}: {problem}."
            yield from _problems(value, where)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _problems(value, f"{place}[{number}]")


def _hints(target: Any) -> dict[str, Any]:
    """Annotations of the arguments of what a ``_target_`` names; none of what cannot be looked up."""
    if not isinstance(target, str):
        return {}
    from hydra.utils import get_object

    try:
        found = get_object(target)
        takes_arguments = inspect.isclass(found) or inspect.isroutine(found)
        return annotations_of(found) if takes_arguments else {}
    except Exception:  # Hydra itself reports targets that do not exist, with their place.
        return {}
