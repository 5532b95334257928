"""Show what a study wants: runs done and missing, tokens, FLOPs, time, cost; or write its next wave as files."""

import argparse
import sys
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import exists
from raystudy.artifacts.storage import Storage, locate_storage
from raystudy.artifacts.weights import weights_path
from raystudy.cli.emission import add_emission, check_alone, emit
from raystudy.cli.options import add_json, add_storage, add_study, print_table, put_json, tell_damage, wants_only_json
from raystudy.execute.frozen_data import Item, find_data
from raystudy.execute.inputs import sizes_of_sources
from raystudy.execute.local import num_cores
from raystudy.execute.machine import gpus_for_groups, memory_of_worker
from raystudy.execute.out_of_memory import would_fit
from raystudy.execute.resolving import named
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.load import is_file, load_study
from raystudy.specs.memory_fit import gib
from raystudy.specs.reading import Reading
from raystudy.specs.run import CommandRun, ProbeRun
from raystudy.study.memory import ModelMemory, enough_line, model_memories, weights_line
from raystudy.study.plan import Plan, lacking_evaluations, lacking_readings, make_plan
from raystudy.study.repeats import repeat_lines, repeats
from raystudy.study.results import StudyResults, read_frozen, read_records
from raystudy.study.spending import read_spending
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    add_storage(parser)
    add_json(parser)
    add_emission(parser)


def call(options: argparse.Namespace) -> int:
    """Print the plan, which changes nothing; or with --emit build the study's data and write its next wave."""
    if options.emit is not None:
        return emit(options)
    check_alone(options)
    storage, state, changed = _read(options)
    if storage.is_absolute and not storage.is_there:
        print(
            f"raystudy: {storage.root} is not a folder on this machine: this counts as if nothing were done there yet",
            file=sys.stderr,
        )
    workers = state.study.resources.workers
    slots = num_cores() if workers is None else max(workers, 1)
    plan = make_plan(state, slots, gpus_for_groups(state.study))
    repeated = repeats(make_wave(state).wanted.values(), sizes_of_sources(state.study, state.inputs, storage))
    tell_damage(storage)
    to_evaluate = lacking_evaluations(state)
    lacking = {str(run): _without_weights(storage, state, run) for run in to_evaluate}
    to_retrain = [name for name, (is_last_gone, _) in lacking.items() if is_last_gone]
    for_readings = [name for name, (is_last_gone, readings) in lacking.items() if readings and not is_last_gone]
    if changed:
        print(
            f"raystudy: the data of {named(changed)} have changed since they were frozen; this plan is for the "
            f"old ones, and `raystudy run` refuses the new ones without --resolve-again",
            file=sys.stderr,
        )
    if not wants_only_json(options):
        _print(plan)
        for line in repeat_lines(repeated):
            print(line)
        _print_evaluations(len(to_evaluate), to_retrain, for_readings)
    spending = read_spending(state, storage, slots, gpus_for_groups(state.study))
    for line in () if wants_only_json(options) else spending.lines():
        print(line)
    memories = [(memory, _memory_lines(state, memory)) for memory in model_memories(state)]
    if not wants_only_json(options):
        for memory, lines in memories:
            _print_memory(memory, lines)
    told: dict[str, Any] = {
        "to_evaluate": len(to_evaluate),
        "to_retrain": to_retrain,
        "to_retrain_for_readings": for_readings,
    }
    told["memory"] = [{**memory.as_dict(), "remarks": lines} for memory, lines in memories]
    told["spending"] = spending.as_dict()
    put_json(options, {**plan.as_dict(), **told, "repeated": [row.as_dict() for row in repeated]})
    return 0


def _read(options: argparse.Namespace) -> tuple[Storage, StudyState, tuple[Item, ...]]:
    """The study that is meant: a file's, or as it was launched last, by name; and what of its data have changed."""
    path = Path(options.study)
    if not is_file(path) and path.suffix not in (".yaml", ".yml") and not options.overrides:
        storage = locate_storage(options.storage)
        return storage, StudyResults(storage, storage.study(options.study)).state, ()
    loaded = load_study(path, options.overrides)
    storage = locate_storage(options.storage, loaded)
    frozen = read_frozen(storage.study(loaded.spec.name))
    data = find_data(loaded, storage, frozen)
    return storage, read_records(storage, loaded.spec, data.before, frozen.rules), data.changed


def _without_weights(storage: Storage, state: StudyState, run: WantedRun) -> tuple[bool, list[Reading]]:
    """Whether the run's last weights lack an evaluation and are gone; other readings of which that is so."""
    if isinstance(run.run, CommandRun):
        return False, []  # its command is started again
    folder = storage.runs.folder(run.run_id)
    gone = [r for r in lacking_readings(state, run) if not exists(weights_path(folder, r.step, r.readout))]
    last = None if isinstance(run.run, ProbeRun) else Reading(step=run.run.settings.steps)
    return last in gone, [reading for reading in gone if reading != last]


def _print_evaluations(num_to_evaluate: int, to_retrain: list[str], for_readings: list[str]) -> None:
    if num_to_evaluate:
        print(
            f"{num_to_evaluate} of the missing runs are trained, and lack an evaluation on a validation set or a task, "
            f"at a step or of a read-out; commands are started again for that"
        )
    if for_readings:
        print(
            f"{len(for_readings)} of those are trained again, their first results kept, for a step or read-out whose "
            f"weights were not kept: {for_readings[0]}, ..."
        )
    if to_retrain:
        print(
            f"{len(to_retrain)} of those would need training again, since their weights are gone: {to_retrain[0]}, ..."
        )
        print("remove the folders of such runs from the storage to train them again")


def _memory_lines(state: StudyState, memory: ModelMemory) -> list[str]:
    """What is said below the table of a model's memory."""
    engine, training = state.study.decoder(memory.model).engine, memory.training
    assert isinstance(engine, DeepSpeedEngine)
    lines = []
    least = memory.smallest_total
    if training.finds_its_part and least < memory.chosen.total:
        lines.append(f"where that does not fit, auto takes less at once: {gib(least)} with one sequence")
    if memory.measured:
        whole = "" if memory.measured_of == "device" else ", of the whole process"
        lines.append(f"measured on this study's records: at most {gib(memory.measured)} of a worker{whole}")
    if memory.out_of_memory:
        fit = would_fit(state.study, memory.model, state.inputs.vocabulary)
        lines.append(f"{memory.out_of_memory} runs ended out of memory. {fit}")
    told = weights_line(memory)
    lines += [told] if told else []
    alone = memory_of_worker(engine.model_copy(update={"workers": 1}))
    return [*lines, enough_line(memory, alone.num_bytes, alone.source)]


def _print_memory(memory: ModelMemory, lines: list[str]) -> None:
    training = memory.training
    where = "GPUs" if training.device == "cuda" else "CPUs"
    print(
        f"memory of one of {training.workers} workers of model {memory.model!r} on {where}, estimated by ZeRO stage, "
        f"{training.precision}, {training.tokens_at_once:,} tokens of each at once:"
    )
    parts = ("weights", "masters", "gradients", "optimizer", "buffers", "activations", "logits", "evaluation", "host")
    rows = []
    for stage, estimate in memory.stages.items():
        sizes = estimate.as_dict()
        mark = " (chosen)" if stage == training.zero_stage else ""
        rows.append((f"{stage}{mark}", *(gib(sizes[part]) for part in (*parts, "total"))))
    header = ("stage", *parts, "at one time")
    print_table(header, rows)
    for line in lines:
        print(line)


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
    speeds = [("", _speed(plan.flops_per_second, is_measured=plan.is_measured), plan.slots)]
    for group in plan.groups:
        told = _speed(group.flops_per_second, is_measured=group.is_measured)
        speeds.append((f" of groups of {group.workers} workers", told, group.at_once))
    for whose, told, at_once in speeds:
        print(f"speed{whose}: {told}, {at_once} at once")
    print("runs that protocols share count in each row and once in the total; waiting: named once a tuned LR is known,")
    print("when some may turn out to be runs that are wanted already: with waiting runs a total is an upper bound")


def _speed(flops_per_second: float, *, is_measured: bool) -> str:
    source = "measured on this study's records" if is_measured else "an assumption until runs are measured"
    return f"{flops_per_second:.3g} FLOP/s a run ({source})"
