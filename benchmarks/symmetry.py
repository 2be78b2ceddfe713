"""Verify the symmetry of networks of the digits space, torchvision, timm, Hugging Face and PyTorch's layers.

Every network runs in float64 with random parameters, running statistics and inputs, before and after two random
elements of its group; then three of its groups are broken, which has to show. ``python -m benchmarks.symmetry --suite
all`` prints a line per failure and per operation without a rule, a table, and as its last line the figures as JSON.
``--fuzz 5000`` verifies so many random small networks instead (:mod:`benchmarks.sweeps.random_graphs`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track

import hypergen
from benchmarks.sweeps.network_sweep import built_and_traced, counted_outputs, one_line, run_sweep
from benchmarks.sweeps.random_graphs import RandomNetwork
from benchmarks.trace_suites import Case
from hypergen.evaluation.results import Results, Row
from hypergen.symmetry.verify import Verification, permuted_share

TOLERANCE = 1e-9
# Random networks whose outputs such a relative change of all parameters changes by more are not judged.
_NOISE, _CONDITION = 1e-13, 1e-8
_MOST_PARAMETERS = 60_000_000


@dataclass
class Verified:
    """What came out of verifying one network.

    Attributes:
        case: Name of the network.
        skipped: Why it was not verified, where the reason is not its symmetry; empty for a network that was.
        failure: Why its symmetry is wrong, or could not be found.
        groups: Number of groups.
        wreath: Number of groups that vary with others.
        error: Largest relative change of an output by elements of the group.
        least_change: Least relative change by breaking a group.
        share: Share of the parameter axes, places in kernels apart, of which something is permuted.
        unsupported: Operations without a rule that keep axes of parameters as they are.
        seconds: That finding the symmetry took.
    """

    case: str
    skipped: str = ""
    failure: str = ""
    groups: int = 0
    wreath: int = 0
    error: float = 0.0
    least_change: float = 0.0
    share: float = 0.0
    unsupported: tuple[str, ...] = ()
    seconds: float = 0.0


def verify(case: Case) -> Verified:
    """Build, trace and verify one network."""
    result = Verified(case.name)
    model, inputs, graph = built_and_traced(case, _MOST_PARAMETERS)
    outputs = counted_outputs(graph)
    start = time.perf_counter()
    try:
        symmetry = graph.symmetry(outputs)
    except Exception as error:
        result.failure = f"no symmetry: {one_line(error)}"
        return result
    result.seconds = time.perf_counter() - start
    result.groups, result.wreath = len(symmetry.groups), sum(bool(group.parents) for group in symmetry.groups)
    result.share, result.unsupported = permuted_share(symmetry), symmetry.unsupported
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the fused products of experts have no float64
    try:
        verification = Verification(model, inputs, outputs)
    except Exception as error:
        result.skipped = f"does not run in float64: {one_line(error)}"
        return result
    try:
        elements = [symmetry.sample(verification.generator) for _ in range(2)]
        result.error = max(verification.error(symmetry, element) for element in elements)
        result.least_change = verification.least_change(symmetry)
    except Exception as error:
        result.failure = f"a permuted copy does not run: {one_line(error)}"
        return result
    if verification.difference(verification.run(verification.tensors)):
        result.skipped = "does not compute the same twice"
    elif not result.error <= TOLERANCE:
        result.failure = f"an element of the group changes the output by {result.error:.1e}"
    return result


def rows_of(suite: str, networks: Sequence[Verified]) -> list[Row]:
    """The figures of a suite."""
    done = [network for network in networks if not network.skipped]
    right = [network for network in done if not network.failure]
    changes = [n.least_change for n in right if n.least_change < float("inf")]  # infinite: no group to break
    return [
        Row(f"{suite}_networks", len(networks)),
        Row(f"{suite}_skipped", len(networks) - len(done), better="lower"),
        Row(f"{suite}_verified", len(right)),
        Row(f"{suite}_verified_share", len(right) / len(done) if done else float("nan"), n=len(done), aim=1.0),
        Row(
            f"{suite}_error_max",
            max((n.error for n in right), default=0.0),
            n=len(right),
            aim=TOLERANCE,
            better="lower",
        ),
        Row.from_values(f"{suite}_least_change", changes, statistic="median"),
        Row.from_values(f"{suite}_permuted_axes_share", [network.share for network in done]),
        Row(f"{suite}_with_unsupported", sum(bool(network.unsupported) for network in done), better="lower"),
        Row.from_values(f"{suite}_seconds", [n.seconds for n in done], better="lower", statistic="median"),
        Row(f"{suite}_seconds_max", max((n.seconds for n in done), default=0.0), n=len(done), aim=1.0, better="lower"),
    ]


def main(arguments: Sequence[str] | None = None) -> Results:
    """Verify the networks, print a line per failure, the table and, last, its JSON."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--fuzz", type=int, metavar="COUNT")
    parser.add_argument("--first-seed", type=int, default=0)
    options, rest = parser.parse_known_args(arguments)
    if options.fuzz:
        return _fuzz(range(options.first_seed, options.first_seed + options.fuzz))
    return run_sweep("symmetry", __doc__, verify, _skipped, rows_of, arguments)


def verify_random(seed: int) -> Verified:
    """Verify one random network; what it fails in names its seed."""
    network = RandomNetwork(seed)
    result = Verified(f"seed {seed}")
    start = time.perf_counter()
    symmetry = hypergen.trace(network, network.example, both_modes=False).symmetry()
    result.seconds = time.perf_counter() - start
    result.groups, result.wreath = len(symmetry.groups), sum(bool(group.parents) for group in symmetry.groups)
    result.share, result.unsupported = permuted_share(symmetry), symmetry.unsupported
    if symmetry.groups:
        verification = Verification(network, network.example)
        result.error = max(verification.error(symmetry, symmetry.sample(verification.generator)) for _ in range(2))
        nearly = {name: tensor * (1 + _NOISE) for name, tensor in verification.tensors.items()}
        if verification.difference(verification.run(nearly)) > _CONDITION:
            result.skipped, result.error = "rounding alone changes an output, as of a mean of what has none", 0.0
    if not result.error <= TOLERANCE:
        result.failure = f"an element of the group changes the output by {result.error:.1e}"
    return result


def _fuzz(seeds: range) -> Results:
    networks = []
    for seed in track(seeds, "Verifying random networks", transient=True):
        networks.append(verify_random(seed))
        if networks[-1].failure:
            print(f"WRONG {networks[-1].case}: {networks[-1].failure}", flush=True)
    rows = [
        Row("fuzzed_networks", len(networks)),
        Row("fuzzed_skipped", sum(bool(network.skipped) for network in networks), better="lower"),
        Row("fuzzed_wrong", sum(bool(network.failure) for network in networks), aim=0, better="lower"),
        Row("fuzzed_error_max", max(n.error for n in networks), n=len(networks), aim=TOLERANCE, better="lower"),
        Row("fuzzed_with_groups", sum(network.groups > 0 for network in networks)),
        Row("fuzzed_with_groups_that_vary", sum(network.wreath > 0 for network in networks)),
        Row("fuzzed_groups", sum(network.groups for network in networks)),
        Row.from_values("fuzzed_permuted_axes_share", [network.share for network in networks]),
    ]
    results = Results("symmetry_fuzz", seeds.start, tuple(rows), {"seeds": [seeds.start, seeds.stop]})
    results.print_table(Console())
    print(results.to_json())
    return results


def _skipped(name: str, reason: str) -> Verified:
    return Verified(name, skipped=reason)


if __name__ == "__main__":
    main()
