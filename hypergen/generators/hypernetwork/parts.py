"""Parts of a hypernetwork: values that it holds, its trunk, and an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.generators.hypernetwork.encoding import ConditionEncoding


def not_functional(target: nn.Module, names: list[str]) -> ParameterError:
    """The error on a network that writes into its own parameters."""
    return ParameterError(
        f"{type(target).__name__} writes into its own parameters when it runs"
        + (f" ({', '.join(names[:3])})" if names else "")
        + ", so it is no function of generated ones. Keep what it writes in buffers, or compute it anew in each call."
    )


class HeldValues(nn.Module):
    """Tensors by names that may hold dots, trained or not."""

    def __init__(self, values: Mapping[str, Tensor], trained: bool) -> None:
        super().__init__()
        self.trained = trained
        for name, value in values.items():
            self.put(name, value, persistent=True)

    def put(self, name: str, value: Tensor, persistent: bool) -> None:
        """Keep a copy."""
        key, value = name.replace(".", "/"), value.detach().clone()
        if self.trained:
            self.register_parameter(key, nn.Parameter(value))
        else:
            self.register_buffer(key, value, persistent=persistent)

    def names(self) -> list[str]:
        """The names of all."""
        return [key.replace("/", ".") for key in (*self._parameters, *self._buffers)]

    def get(self, name: str) -> Tensor:
        """The tensor of a name."""
        return getattr(self, name.replace(".", "/"))  # type: ignore[no-any-return]


def make_trunk(encoding: ConditionEncoding, hidden: Sequence[int]) -> nn.Sequential:
    """An MLP whose states have values of about 1 for every condition."""
    layers: list[nn.Module] = []
    size = encoding.size
    for number, width in enumerate(hidden):
        layer = nn.Linear(size, width)
        # The encoding's length is known; hidden layers follow He et al. (2015).
        deviation = (2 / (encoding.squared_length if number == 0 else size)) ** 0.5
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.LeakyReLU()]
        size = width
    return nn.Sequential(*layers)
