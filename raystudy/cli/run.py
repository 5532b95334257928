"""Run a study: make every run that is wanted and not done, with Ray Tune or on this machine alone."""

import argparse
from pathlib import Path

from raystudy.artifacts.storage import locate_storage
from raystudy.cli.options import add_log_format, add_storage, add_study
from raystudy.distribute.launch import launch
from raystudy.errors import SpecError
from raystudy.execute.budget import Budget
from raystudy.execute.log_events import log_format
from raystudy.execute.progress import Progress
from raystudy.specs.load import load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser)
    add_storage(parser)
    parser.add_argument("--local", action="store_true", help="train on this machine without Ray")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="worker processes of --local (default: one per core; 0: the driver)"
    )
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else a local cluster of its own)")
    parser.add_argument("--max-runs", type=int, metavar="N", help="start at most N runs now; the next launch goes on")
    help_text = "start no run that would take this launch beyond so many device-hours"
    parser.add_argument("--max-device-hours", type=float, metavar="H", help=help_text)
    help_text = "resolve learning rates and data anew that were frozen by earlier launches; says first what that costs"
    parser.add_argument("--resolve-again", action="store_true", help=help_text)
    add_log_format(parser)
    parser.add_argument("--no-wait", action="store_true", help="end when another driver holds the study")


def call(options: argparse.Namespace) -> int:
    """Launch; ends non-zero if any wanted run is missing."""
    if options.workers is not None and (options.workers < 0 or not options.local):
        raise SpecError(f"--workers must be 0 or more and goes with --local, but got {options.workers}")
    if options.local and options.address is not None:
        raise SpecError("--local and --address exclude each other. Leave one out")
    progress = Progress(chosen=log_format(options.log_format))
    budget = Budget(options.max_runs, options.max_device_hours)
    loaded = load_study(Path(options.study), options.overrides)
    storage = locate_storage(options.storage, loaded)
    done = launch(
        loaded,
        storage,
        local=options.local,
        workers=options.workers,
        address=options.address,
        wait=not options.no_wait,
        budget=budget,
        resolve_again=options.resolve_again,
        progress=progress,
    )
    evaluated = f"{done.num_evaluated} evaluated, " if done.num_evaluated else ""
    before = f"{evaluated}{done.num_done_before} were done, {done.num_wanted} wanted"
    line = f"{done.name}: {done.num_made} runs made, {before}"
    if done.is_complete and not done.num_made and not evaluated:
        line = f"{done.name}: all {done.num_wanted} wanted runs are done; nothing to do"
    lost = f"nodes were lost {done.num_preemptions} times in the middle of a run, which was made again"
    more = [lost] if done.num_preemptions else []
    more += [done.device_time_used] if done.device_time_used else []
    for about in more if progress.is_json else ():
        progress.say(f"{done.name}: {about}")
    if progress.is_json:
        progress.say(line, event="launch-ended", made=done.num_made, wanted=done.num_wanted, left=done.num_left)
    else:
        print(line, *(f"{done.name}: {about}" for about in more), sep="\n")
    done.raise_if_incomplete()
    return 0
