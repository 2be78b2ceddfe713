"""Speed and memory of hypergen, beside a baseline in the same run: ``python -m benchmarks.main``."""

# Before Lightning or torchvision: it lets the latter be imported beside a torch that it was not built for.
import hypergen  # noqa: F401
