"""Reads the networks that NiNo's authors released."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import read_tensor_file
from hypergen.metanets.nowcasting.nino import KINDS, NowcastGNN, NowcastMLP

# What the released files say only where it differs.
_DEFAULTS: dict[str, Any] = {
    "ctx": 5, "hid": 128, "layers": 3, "gnn": True, "dms": True, "max_feat_size": 9, "input_layer": "linear",
    "act_name": "silu", "residual": True, "seq_len": 40, "improved_graph": True, "wte_pos_enc": True,
    "vocab_size": 50257, "edge_types": KINDS, "lpe": 8, "scale_method": "std", "upd_scale": 1.0,
    "final_edge_update": False,
}  # fmt: skip
# What is built here, of what could be asked for.
_SUPPORTED = {
    "dms": True, "input_layer": "linear", "act_name": "silu", "residual": True, "improved_graph": True,
    "edge_types": KINDS, "scale_method": "std", "upd_scale": 1.0, "final_edge_update": False,
}  # fmt: skip
_NAMES = (
    (r"layer_embed\.", "kind."),
    (r"edge_proj\.fc\.0\.", "history."),
    (r"node_proj\.fc\.0\.", "position."),
    (r"(edge_mlp|edge_out)\.fc\.", "decoder."),
    (r"gnn\.convs\.(\d+)\.edge_encoder\.", r"rounds.\1.modulation."),
    (r"gnn\.convs\.(\d+)\.pre_nns\.0\.0\.", r"rounds.\1.message."),
    (r"gnn\.convs\.(\d+)\.post_nns\.0\.0\.", r"rounds.\1.update."),
    (r"gnn\.convs\.(\d+)\.lin\.", r"rounds.\1.output."),
    (r"gnn\.edge_update\.(\d+)\.lin_e\.", r"rounds.\1.edge."),
    (r"gnn\.edge_update\.(\d+)\.lin_s\.", r"rounds.\1.source."),
    (r"gnn\.edge_update\.(\d+)\.lin_t\.", r"rounds.\1.target."),
    (r"gnn\.edge_update\.(\d+)\.lin1\.", r"rounds.\1.edge_output."),
)


def load_nino(path: str | Path) -> NowcastMLP | NowcastGNN:
    """Read a released network, such as ``nino_mlp.pt`` or ``nino_no_posw.pt``.

    Their outputs agree with those of the published implementation for perceptrons, convolutional networks, GPT-2 and
    Llama, given the same eigenvectors. The last of three message passings never reaches the output and is not read.

    Args:
        path: A file with ``state_dict`` and ``model_args``; read without running code from it.

    Raises:
        CheckpointError: There is no such file, it is something else, or a network with options that are not built here,
            such as position embeddings of tokens (``nino.pt``).
    """
    path = Path(path)
    content = read_tensor_file(path)
    if not isinstance(content, dict) or not {"state_dict", "model_args"} <= content.keys():
        raise CheckpointError(f"{path} is no NiNo checkpoint: it needs the entries 'state_dict' and 'model_args'.")
    arguments = {**_DEFAULTS, **content["model_args"]}
    perceptron = arguments["gnn"] in (False, None, "None", "none")
    wanted = dict(_SUPPORTED) if perceptron else {**_SUPPORTED, "wte_pos_enc": False}
    for name, value in wanted.items():
        if arguments[name] != value:
            raise CheckpointError(
                f"{path} has {name}={arguments[name]!r}, and only {value!r} is supported; nino_mlp.pt and "
                "nino_no_posw.pt can be read."
            )
    sizes = {"context": arguments["ctx"], "horizons": arguments["seq_len"], "hidden": arguments["hid"]}
    network: NowcastMLP | NowcastGNN
    if perceptron:
        network = NowcastMLP(**sizes)
    else:
        network = NowcastGNN(
            **sizes, rounds=arguments["layers"] - 1, eigenvectors=arguments["lpe"], kernel=arguments["max_feat_size"]
        )
    state = _renamed(content["state_dict"], unread=None if perceptron else f"gnn.convs.{arguments['layers'] - 1}.")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold what its 'model_args' say: {error}") from error
    return network.eval()


def _renamed(state: dict[str, Tensor], unread: str | None) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        if unread is not None and name.startswith(unread):
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(f"^{pattern}", replacement, name)
        renamed[name] = value
    return renamed
