"""From the runs of a wave to tasks, the unit that is scheduled. Which runs share a task changes no result.

To place a task costs some tenths of a second with Ray, so runs shorter than that share one.
"""

from collections.abc import Mapping, Sequence

from raystudy.execute.probe_work import together
from raystudy.execute.work import Task
from raystudy.specs.run import AlignmentProbe, SharpnessProbe, TrainRun
from raystudy.specs.study import Resources
from raystudy.study.plan import ASSUMED_FLOPS_PER_SECOND
from raystudy.study.wanted import WantedRun

MOST_TOGETHER = 200  # random-feature runs in one task, so that a dead worker costs no more
TASK_SECONDS = 5.0  # decoders' runs share a task up to this estimate: a stop or a dead worker costs little
FEWEST_TASKS = 50  # a wave is not cut into fewer tasks than this to save placing them: many slots want work
_STEP_SECONDS = 3e-3  # of one step beside its FLOPs, as small models take on a CPU core; only an estimate


def make_tasks(
    todo: Sequence[WantedRun],
    root: str,
    validation: Mapping[str, str],
    resources: Resources,
    downstream: Mapping[str, str] | None = None,
) -> list[Task]:
    """Tasks in the order of their first runs: neighbouring short runs of a decoder share one (see `_packs`), as do
    random-feature runs and likeness on one recipe, and a decoder's probes that differ in validation set alone."""
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
    return [
        Task(
            tuple(member.run.model_dump_json() for member in members),
            root,
            validation,
            resources.device,
            members[0].recipe,
            members[0].model,
            micro_batch_tokens=resources.micro_batch_tokens,
            checkpoint_minutes=resources.checkpoint_minutes,
            asked=_asked_of(members),
            downstream=downstream or {},
        )
        for members in groups.values()
    ]


def _asked_of(members: Sequence[WantedRun]) -> tuple[str, ...]:
    """What is asked of each member, as JSON; empty where nothing is asked of any."""
    if not any(member.asks for member in members):
        return ()
    return tuple(member.everything_asked.model_dump_json() for member in members)


def _packs(runs: Sequence[WantedRun]) -> list[list[WantedRun]]:
    """Neighbours of one model, together up to TASK_SECONDS and to a FEWEST_TASKS-th of all runs."""
    most = max(1, len(runs) // FEWEST_TASKS)
    packs: list[list[WantedRun]] = []
    seconds = 0.0
    for run in runs:
        lasts = estimated_seconds(run)
        fits = packs and len(packs[-1]) < most and packs[-1][0].model == run.model
        if fits and seconds + lasts <= TASK_SECONDS:
            packs[-1].append(run)
            seconds += lasts
        else:
            packs.append([run])
            seconds = lasts
    return packs


def estimated_seconds(run: WantedRun) -> float:
    """What a decoder's run may take on one CPU core: high for faster devices, whose runs then share tasks less."""
    assert isinstance(run.run, TrainRun)
    return run.flops / ASSUMED_FLOPS_PER_SECOND + run.run.settings.steps * _STEP_SECONDS
