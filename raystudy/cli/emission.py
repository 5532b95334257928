"""`raystudy plan --emit`: the next wave as files, for Slurm or whatever else starts tasks. Parses, calls, prints."""

import argparse
from pathlib import Path

from raystudy.artifacts.storage import folder_name, locate_storage
from raystudy.cli.options import put_json, wants_only_json
from raystudy.errors import SpecError
from raystudy.execute.emitted import Array, Emission, Emitted, emit_wave
from raystudy.execute.progress import Progress
from raystudy.execute.sbatch import duration
from raystudy.execute.walltime import read_walltime
from raystudy.specs.load import load_study


def add_emission(parser: argparse.ArgumentParser) -> None:
    """`--emit` and what goes with it."""
    group = parser.add_argument_group("writing the next wave as files (docs/slurm.md)")
    help_text = (
        "of a file: build the data and write what is missing now: tasks, and a script for sbatch; or the tasks alone"
    )
    group.add_argument("--emit", choices=("slurm-array", "jsonl"), help=help_text)
    group.add_argument("--out", metavar="DIR", help="where to (default: NAME-wave/)")
    group.add_argument("--walltime", metavar="HH:MM:SS", help="of one job (default: three times what it may take)")
    group.add_argument("--limit", type=int, default=20, metavar="N", help="jobs at once (default 20)")
    help_text = "write runs that failed three times on record too"
    group.add_argument("--retry", action="store_true", help=help_text)
    group.add_argument("--no-wait", action="store_true", help="end when another driver holds the study")


def check_alone(options: argparse.Namespace) -> None:
    """Raises SpecError for options that mean nothing without --emit."""
    given = {"--out": options.out, "--walltime": options.walltime, "--retry": options.retry}
    for option, value in given.items():
        if value:
            raise SpecError(f"{option} must go with --emit, but was given without. Add `--emit slurm-array`")


def emit(options: argparse.Namespace) -> int:
    """Write the wave and say what to do with it; ends non-zero where runs are missing and none can be written."""
    loaded = load_study(Path(options.study), options.overrides)
    storage = locate_storage(options.storage, loaded)
    out = Path(options.out or f"{folder_name(loaded.spec.name)}-wave")
    walltime = None if options.walltime is None else read_walltime(options.walltime)
    emission = Emission(out, options.emit == "slurm-array", options.limit, walltime, options.retry)
    emitted = emit_wave(loaded, storage, emission, Progress(), wait=not options.no_wait)
    if not wants_only_json(options):
        _print(emitted, out)
    put_json(options, emitted.as_dict())
    emitted.raise_if_stuck()
    return 0


def _print(emitted: Emitted, out: Path) -> None:
    print(f"{emitted.study}: {emitted.num_done} of {emitted.num_wanted} wanted runs are done")
    for line in emitted.waiting:
        print(f"  {line}")
    for array in emitted.arrays:
        print(_told(array, out))
    if emitted.num_left:
        print(f"{emitted.num_left} runs more are missing: they wait for what these show of the budget that is left")
    if emitted.num_begun:
        print(
            f"{emitted.num_begun} of these runs were begun before and have no result: if an array is still at work on "
            f"them let it end first, else they are made twice and the first result counts"
        )
    if emitted.given_up and emitted.arrays:
        print(f"{len(emitted.given_up)} runs failed three times and were left out; --retry writes them too")
    if not emitted.arrays and not emitted.given_up:
        print("nothing is missing that could run now: there is nothing to submit")
    elif emitted.arrays and emitted.arrays[0].script:
        print(f"submit them: bash {out / 'submit.sh'}   (with --wait it ends when they have)")


def _told(array: Array, out: Path) -> str:
    gpus = f", {array.gpus} GPUs" if array.gpus else ""
    what = f"{array.num_runs} runs in {array.num_tasks} tasks: {out / array.tasks_file}"
    if not array.script:
        return f"{what}; one of them: raystudy run-task {out / array.tasks_file} --index 0"
    return (
        f"{what}; {array.num_jobs} jobs of {array.cpus} CPUs{gpus} and {duration(array.walltime)}: {out / array.script}"
    )
