"""From the runs of a wave to tasks, the unit that is scheduled. Which runs share a task changes no result.

To place a task costs some tenths of a second with Ray, so runs shorter than that share one. To start a group of
workers costs seconds to tens of seconds, so a group makes several short runs one after another.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from raystudy.execute.probe_work import together
from raystudy.execute.work import Task
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import AlignmentProbe, SharpnessProbe, TrainRun
from raystudy.specs.study import Resources
from raystudy.study.speeds import ASSUMED_FLOPS_PER_SECOND
from raystudy.study.wanted import WantedRun

MOST_TOGETHER = 200  # random-feature runs in one task, so that a dead worker costs no more
TASK_SECONDS = 5.0  # decoders' runs share a task up to this estimate: a stop or a dead worker costs little
FEWEST_TASKS = 50  # a wave is not cut into fewer tasks than this to save placing them: many slots want work
_STEP_SECONDS = 3e-3  # of one step beside its FLOPs, as small models take on a CPU core; only an estimate
GROUP_SECONDS, GROUP_RUNS = 600.0, 50  # runs of a group share a task up to these
_GROUP_STEP_SECONDS = 15e-3  # of a group's step beside its FLOPs: two workers on two CPU cores; only an estimate

Engines = Mapping[str, DeepSpeedEngine]  # by model: of those whose runs several workers train together


def make_tasks(
    todo: Sequence[WantedRun],
    root: str,
    validation: Mapping[str, str],
    resources: Resources,
    downstream: Mapping[str, str] | None = None,
    engines: Engines | None = None,
    group_places: Callable[[DeepSpeedEngine], int] = lambda _: 1,
    own: Mapping[str, Resources] | None = None,
) -> list[Task]:
    """Tasks in the order of their first runs, those of groups first: neighbouring short runs of a decoder share one
    (see `_packs`), as do random-feature runs and likeness on one recipe, and a decoder's probes that differ in
    validation set alone. `group_places`: how many groups of an engine can run at once; `own`: the resources of those
    models, by name, that do not take `resources`."""
    in_groups = [run for run in todo if isinstance(run.run, TrainRun) and run.run.engine == "deepspeed"]
    grouped = {run.run_id for run in in_groups}
    of_one = [run for run in todo if run.run_id not in grouped]
    tasks = _group_tasks(in_groups, root, validation, downstream or {}, engines or {}, group_places)
    return tasks + _tasks_of_one_process(of_one, root, validation, resources, downstream or {}, own or {})


def _tasks_of_one_process(
    todo: Sequence[WantedRun],
    root: str,
    validation: Mapping[str, str],
    resources: Resources,
    downstream: Mapping[str, str],
    own: Mapping[str, Resources],
) -> list[Task]:
    groups: dict[tuple[str, int], list[WantedRun]] = {}
    counts: dict[str, int] = {}
    for pack in _packs([run for run in todo if isinstance(run.run, TrainRun)]):
        groups[pack[0].run_id, 0] = pack
    for run in todo:
        if isinstance(run.run, TrainRun):
            continue
        shared = together(run.run) if isinstance(run.run, AlignmentProbe | SharpnessProbe) else run.run.shards
        place = counts.get(shared, 0)
        counts[shared] = place + 1
        groups.setdefault((shared, place // MOST_TOGETHER), []).append(run)
    tasks = []
    for members in groups.values():
        takes = own.get(members[0].model, resources)
        tasks.append(
            Task(
                tuple(member.run.model_dump_json() for member in members),
                root,
                validation,
                takes.device,
                members[0].recipe,
                members[0].model,
                micro_batch_tokens=takes.micro_batch_tokens,
                checkpoint_minutes=takes.checkpoint_minutes,
                asked=_asked_of(members),
                downstream=downstream,
                num_devices=takes.num_devices,
                cpus=takes.cpus_per_run,
                gpus=takes.gpus_per_run,
            )
        )
    return tasks


def _group_tasks(
    todo: Sequence[WantedRun],
    root: str,
    validation: Mapping[str, str],
    downstream: Mapping[str, str],
    engines: Engines,
    group_places: Callable[[DeepSpeedEngine], int],
) -> list[Task]:
    """Runs of one engine share tasks up to GROUP_SECONDS and GROUP_RUNS, while no place for a group stays empty."""
    alike: dict[str, list[WantedRun]] = {}
    for run in todo:
        alike.setdefault(engines[run.model].model_dump_json(), []).append(run)
    tasks = []
    for text, runs in alike.items():
        engine = engines[runs[0].model]
        most = min(GROUP_RUNS, max(1, len(runs) // group_places(engine)))
        for members in _packed(runs, partial(estimated_group_seconds, engine=engine), most, GROUP_SECONDS):
            tasks.append(
                Task(
                    tuple(member.run.model_dump_json() for member in members),
                    root,
                    validation,
                    engine.device,
                    members[0].recipe,
                    members[0].model,
                    micro_batch_tokens=engine.micro_batch_tokens,
                    asked=_asked_of(members),
                    downstream=downstream,
                    group=text,
                    num_devices=engine.num_devices,
                )
            )
    return tasks


def estimated_group_seconds(run: WantedRun, engine: DeepSpeedEngine) -> float:
    """What a group may take for a decoder's run, its own start-up aside: high for devices faster than CPU cores."""
    assert isinstance(run.run, TrainRun)
    return run.flops / ASSUMED_FLOPS_PER_SECOND / engine.workers + run.run.settings.steps * _GROUP_STEP_SECONDS


def _asked_of(members: Sequence[WantedRun]) -> tuple[str, ...]:
    """What is asked of each member, as JSON; empty where nothing is asked of any."""
    if not any(member.asks for member in members):
        return ()
    return tuple(member.everything_asked.model_dump_json() for member in members)


def _packs(runs: Sequence[WantedRun]) -> list[list[WantedRun]]:
    """Neighbours of one model, together up to TASK_SECONDS and to a FEWEST_TASKS-th of all runs."""
    most = max(1, len(runs) // FEWEST_TASKS)
    neighbours = [list(alike) for _, alike in groupby(runs, key=lambda run: run.model)]
    return [pack for alike in neighbours for pack in _packed(alike, estimated_seconds, most, TASK_SECONDS)]


def _packed(
    runs: Sequence[WantedRun], lasts: Callable[[WantedRun], float], most: int, most_seconds: float
) -> list[list[WantedRun]]:
    """Neighbours together, up to `most` runs and as long as what they take stays within `most_seconds`."""
    packs: list[list[WantedRun]] = []
    seconds = 0.0
    for run in runs:
        if packs and len(packs[-1]) < most and seconds + lasts(run) <= most_seconds:
            packs[-1].append(run)
            seconds += lasts(run)
        else:
            packs.append([run])
            seconds = lasts(run)
    return packs


def estimated_seconds(run: WantedRun) -> float:
    """What a decoder's run may take on one CPU core: high for faster devices, whose runs then share tasks less."""
    assert isinstance(run.run, TrainRun)
    return run.flops / ASSUMED_FLOPS_PER_SECOND + run.run.settings.steps * _STEP_SECONDS
