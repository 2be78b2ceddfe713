"""One module with the weights of many networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from hypergen.functional.stacked_outputs import logits_of


class StackedModule:
    """Runs a module with stacked parameters: ``f(parameters, buffers, inputs)`` of n networks at once.

    Any module works that `torch.func.vmap` can follow; of models of Hugging Face, logits are what they return. Buffers
    that the forward pass updates in place, such as a batch norm's statistics, are updated for each network. Parameters
    that need no gradients, such as those under an adapter, are the same for all networks: those of a module that
    ``build`` makes.

    Args:
        build: Makes the module.

    Attributes:
        names: The names of its state dict, tied ones once, without parameters that need no gradients.
        parameter_names: Those of its parameters.
    """

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build
        with _seeded(0):
            self.module = build()
        self.parameter_names = [name for name, value in self.module.named_parameters() if value.requires_grad]
        # Neither has a tied tensor twice.
        once = {*self.parameter_names, *(name for name, _ in self.module.named_buffers())}
        self.names = [name for name in self.module.state_dict() if name in once]

    def initialise(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """What the module's own constructor makes under each seed.

        Args:
            seeds: One per network; networks with the same seed start from the same weights.

        Returns:
            [networks, …] per name. Other random state of the process is left as it was.
        """
        distinct = list(dict.fromkeys(seeds))
        states = []
        for seed in distinct:
            with _seeded(seed):
                state = self.build().state_dict()
            states.append([state[name].detach() for name in self.names])
        rows = torch.tensor([distinct.index(seed) for seed in seeds]) if len(distinct) < len(seeds) else None
        stacked = {
            name: torch.stack(values) for name, values in zip(self.names, zip(*states, strict=True), strict=True)
        }
        return stacked if rows is None else {name: value[rows] for name, value in stacked.items()}

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Tensor,
        *,
        training: bool = True,
        shared: bool = False,
    ) -> Tensor:
        """Outputs of all networks.

        Args:
            parameters: [networks, …] per name.
            buffers: Buffers, in the same form; changed in place where training changes them.
            inputs: [networks, batch, …].
            training: Whether the module is in training mode.
            shared: Whether ``inputs`` are [batch, …], the same for all networks.

        Returns:
            [networks, batch, …].
        """
        self.module.train(training)

        def forward(own: dict[str, Tensor], own_buffers: dict[str, Tensor], own_inputs: Tensor) -> Tensor:
            return logits_of(functional_call(self.module, (own, own_buffers), (own_inputs,)))

        in_dims = (0, 0, None if shared else 0)
        # `vmap` runs fused attention once for each network, and its parts for all of them together.
        with sdpa_kernel(SDPBackend.MATH):
            return vmap(forward, in_dims, randomness="different")(dict(parameters), dict(buffers), inputs)


class _seeded:  # noqa: N801 - reads as a statement
    """A context in which torch's global generator starts from a seed, and after which it is what it was."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.before = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self.before)
