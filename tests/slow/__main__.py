"""`python -m tests.slow [NAME ...]`: slow checks, all or those named; each leaves a dated result in docs/results."""

import argparse
import sys
from importlib import import_module

# Modules beside this one, each with `main(arguments) -> exit status`.
CHECKS = [
    "known_truth",
    "faults",
    "reference",
    "group_faults",
    "parity_on_ray",
    "launchers",
    "storage",
    "memory",
    "nodes",
    "remote_storage",
    "slurm",
    "trackers",
    "oldest_and_newest",
]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CHECKS)} (default: all)")
    names = parser.parse_args(arguments).names or CHECKS
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        parser.error(f"a slow check must be one of {', '.join(CHECKS)}, but got {', '.join(unknown)}")
    failed = [name for name in names if import_module(f"tests.slow.{name}").main([])]
    print(f"slow checks that failed: {', '.join(failed)}" if failed else f"{len(names)} slow checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
