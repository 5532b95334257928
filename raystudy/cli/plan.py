"""Show what a study wants: runs done and missing, tokens, FLOPs, time."""

import argparse
import sys
from pathlib import Path

from raystudy.artifacts.storage import Storage, locate_storage
from raystudy.artifacts.weights import weights_path
from raystudy.cli.options import add_json, add_storage, add_study, print_table, put_json, tell_damage, wants_only_json
from raystudy.execute.frozen_data import find_data
from raystudy.execute.inputs import sizes_of_sources
from raystudy.execute.local import num_cores
from raystudy.execute.resolving import named
from raystudy.specs.load import load_study
from raystudy.specs.run import ProbeRun
from raystudy.study.plan import Plan, lacking_evaluations, make_plan
from raystudy.study.repeats import repeat_lines, repeats
from raystudy.study.results import read_frozen, read_records
from raystudy.study.state import WantedRun
from raystudy.study.waves import make_wave


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser)
    add_storage(parser)
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Print the plan; changes nothing."""
    loaded = load_study(Path(options.study), options.overrides)
    storage = locate_storage(options.storage, loaded)
    frozen = read_frozen(storage.study(loaded.spec.name))
    data = find_data(loaded, storage, frozen)
    state = read_records(storage, loaded.spec, data.before, frozen.rules)
    workers = loaded.spec.resources.workers
    slots = num_cores() if workers is None else max(workers, 1)
    plan = make_plan(state, slots)
    repeated = repeats(make_wave(state).wanted.values(), sizes_of_sources(state.inputs, storage))
    tell_damage(storage)
    to_evaluate = lacking_evaluations(state)
    to_retrain = [str(run) for run in to_evaluate if not _has_weights(storage, run)]
    if data.changed:
        print(
            f"raystudy: the data of {named(data.changed)} have changed since they were frozen; this plan is for the "
            f"old ones, and `raystudy run` refuses the new ones without --resolve-again",
            file=sys.stderr,
        )
    if not wants_only_json(options):
        _print(plan)
        for line in repeat_lines(repeated):
            print(line)
        _print_evaluations(len(to_evaluate), to_retrain)
    more = {"to_evaluate": len(to_evaluate), "to_retrain": to_retrain, "repeated": [row.as_dict() for row in repeated]}
    put_json(options, {**plan.as_dict(), **more})
    return 0


def _has_weights(storage: Storage, run: WantedRun) -> bool:
    folder = storage.runs.folder(run.run_id)
    return not isinstance(run.run, ProbeRun) and weights_path(folder, run.run.settings.steps).exists()


def _print_evaluations(num_to_evaluate: int, to_retrain: list[str]) -> None:
    if num_to_evaluate:
        print(
            f"{num_to_evaluate} of the missing runs are trained, and lack an evaluation on a validation set or a task"
        )
    if to_retrain:
        print(
            f"{len(to_retrain)} of those would need training again, since their weights are gone: {to_retrain[0]}, ..."
        )
        print("remove the folders of such runs from the storage to train them again")


def _print(plan: Plan) -> None:
    header = ("protocol", "model", "wanted", "done", "missing", "waiting", "tokens", "FLOPs", "time left")
    rows = [
        (
            row.protocol,
            row.model,
            f"{row.wanted}",
            f"{row.done}",
            f"{row.missing}",
            f"{row.waiting}",
            f"{row.tokens:,}",
            f"{row.flops:.3g}",
            f"{row.seconds_left:,.0f} s",
        )
        for row in [*plan.rows, plan.total]
    ]
    print_table(header, rows)
    if plan.extension.runs:
        print(f"grids may go on beyond their edges: in the worst case {plan.extension} more")
    for line in plan.drift:
        print(line)
    source = "measured on this study's records" if plan.is_measured else "an assumption until runs are measured"
    print(f"speed: {plan.flops_per_second:.3g} FLOP/s a run ({source}), {plan.slots} at once")
    print("runs that protocols share count in each row and once in the total; waiting: named once a tuned LR is known,")
    print("when some may turn out to be runs that are wanted already: with waiting runs a total is an upper bound")
