"""Show how far a study is, from its storage alone, while it runs or afterwards."""

import argparse
from pathlib import Path

from raystudy.artifacts.storage import locate_storage
from raystudy.cli.options import add_json, add_storage, add_study, put_json, tell_damage, wants_only_json
from raystudy.errors import SpecError
from raystudy.execute.driver_lock import find_holder
from raystudy.specs.load import is_file, load_study
from raystudy.study.results import StudyResults
from raystudy.study.status import Status, read_status

_SHOWN_FAILURES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    add_storage(parser)
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Print the status; changes nothing. It is that of the study as it was launched last."""
    path = Path(options.study)
    if is_file(path):
        loaded = load_study(path, options.overrides)
        storage, name = locate_storage(options.storage, loaded), loaded.spec.name
    elif path.suffix in (".yaml", ".yml") or options.overrides:
        raise SpecError(f"STUDY must be a study file or, without --set, a study's name, but {path} is not there")
    else:
        storage, name = locate_storage(options.storage), options.study
    results = StudyResults(storage, storage.study(name))
    status = read_status(results, find_holder(results.folder.path))
    tell_damage(storage)
    if not wants_only_json(options):
        _print(status)
    put_json(options, status.as_dict())
    return 0


def _print(status: Status) -> None:
    print(f"{status.study}: {status.driver} runs it" if status.driver else f"{status.study}: no driver is running")
    counts = [f"{count} {name}" for name, count in status.done.items()]
    print(f"runs: {status.wanted} wanted, {', '.join(counts) or 'none done'}, {status.missing} missing")
    print(f"tokens: {status.tokens_done:,} of {status.tokens_wanted:,}")
    for line in status.waiting:
        print(f"waiting: {line}")
    for failed in status.failed[:_SHOWN_FAILURES]:
        times = "once" if failed.num_attempts == 1 else f"{failed.num_attempts} times"
        print(f"failed {times}: {failed.run}: {failed.first_cause}")
    if len(status.failed) > _SHOWN_FAILURES:
        print(f"failed: {len(status.failed) - _SHOWN_FAILURES} more (--json lists them all)")
    if status.num_preemptions:
        print(f"preempted: {status.num_preemptions} times a node was lost in the middle of a run, which is no failure")
    if status.device_time_used:
        names = {"cpu": "CPU", "cuda": "GPU"}
        shares = [f"{share:.0%} of {names.get(kind, kind)} time" for kind, share in status.device_time_used.items()]
        print(f"used by ended runs: {', '.join(shares)}")
    if status.driver is not None:
        left = "not known yet" if status.seconds_left is None else f"about {status.seconds_left:,.0f} s"
        print(f"time left: {left}")
