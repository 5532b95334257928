"""From a run that a protocol wants to what it scores: a step of it, a read-out, or a decay branch."""

from dataclasses import replace

from raystudy.errors import SpecError
from raystudy.specs.budgets import branch_problem, branch_run, step_problem
from raystudy.specs.reading import Asked, Reading, Scoring
from raystudy.specs.run import CommandRun, TrainRun
from raystudy.study.wanted import WantedRun


def scored_by(wanted: WantedRun, scoring: Scoring) -> WantedRun:
    """The run, or a branch of it, whose score is taken as `scoring` says.

    Raises:
        SpecError: the run has no such step, or its learning rate is not constant there.
    """
    run, parent, branch = wanted.run, None, scoring.branch
    assert isinstance(run, TrainRun | CommandRun)
    problem = None
    if branch is not None:
        problem = branch_problem(run.settings.schedule, run.settings.steps, branch.at)
    elif scoring.step is not None:
        problem = step_problem(run.settings.schedule, run.settings.steps, scoring.step)
    if problem is not None:
        raise SpecError(f"model {wanted.model!r}: {problem}. Use a schedule of kind 'constant', or another step")
    if branch is not None:
        assert isinstance(run, TrainRun), "the study's check has made sure that no command is asked for branches"
        parent = replace(wanted, asked=Asked(checkpoints=(branch.at,)))
        run = branch_run(run, branch)
    step = scoring.step or run.settings.steps
    is_last = step == run.settings.steps and scoring.readout is None
    reading = None if is_last else Reading(step=step, readout=scoring.readout)
    return replace(wanted, run=run, reading=reading, parent=parent)
