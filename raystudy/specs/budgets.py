"""Which steps of a run may be scored, or branched from, as the end of a shorter one.

Only while the learning rate is constant: a loss in the middle of a schedule that falls to the end of the run is not the
loss of any run of that many steps.
"""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from raystudy.specs.reading import Branch
from raystudy.specs.run import StartsFrom, TrainRun
from raystudy.specs.schedules import Constant, Schedule, WarmupStableDecay
from raystudy.specs.training import TrainingOverride, TrainingSettings
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_SWEPT = ("tokens", "batch_tokens", "warmup")  # axes of a search space that say how long a run or its warm-up is


def constant_until(schedule: Schedule, steps: int) -> int:
    """The steps of a run of `steps` after which the learning rate has been constant since its warm-up; 0: none."""
    if isinstance(schedule, Constant):
        return steps
    if isinstance(schedule, WarmupStableDecay):
        return steps - schedule.decay_length(steps)
    return 0


def step_problem(schedule: Schedule, steps: int, step: int) -> str | None:
    """Why the weights after `step` of `steps` are no score of their own, as a rule; None where they are."""
    if step > steps:
        return f"a step must be one of the run's {steps}, but got {step}"
    last, warmup = constant_until(schedule, steps), schedule.warmup_length(steps)
    if step == steps or warmup <= step <= last:
        return None
    if step < warmup:
        return f"a step must come after the warm-up of {warmup} steps, but got {step}"
    return (
        f"the learning rate must have been constant up to the step, but {schedule.kind!r} over {steps} steps lets it "
        f"fall {f'after step {last}' if last else 'from the warm-up on'}, and got {step}"
    )


def branch_problem(schedule: Schedule, steps: int, at: int) -> str | None:
    """Why no decay branch can start after step `at`, as a rule; None where one can."""
    if at <= steps and at > constant_until(schedule, steps):
        return f"a branch must start where the learning rate is constant, but {schedule.kind!r} has left it at {at}"
    return step_problem(schedule, steps, at)


def branch_run(parent: TrainRun, branch: Branch) -> TrainRun:
    """The run that starts from `parent` and lets its learning rate fall to 0 over its own steps, without a warm-up."""
    schedule = WarmupStableDecay(kind="wsd", warmup=0.0, decay=1.0, decay_shape=branch.decay_shape)
    settings = parent.settings.model_copy(update={"steps": branch.steps, "schedule": schedule})
    starts_from = StartsFrom(run_id=parent.run_id, step=branch.at)
    return parent.model_copy(update={"settings": settings, "starts_from": starts_from})


def known_steps(settings: TrainingSettings) -> int | None:
    """The steps that the settings give; None where they rest on the number of parameters."""
    if settings.steps is not None:
        return settings.steps
    return None if settings.tokens is None else max(1, -(-settings.tokens // settings.batch_tokens))


def budget_problems(document: YamlDocument) -> Iterator[Problem]:
    """Steps, branches and read-outs of protocols that their model's runs do not have."""
    protocols = document.data.get("protocols")
    for name, protocol in protocols.items() if isinstance(protocols, dict) else ():
        if not isinstance(protocol, dict):
            continue
        asked = list(_asked_steps(("protocols", name), protocol))
        if not asked and protocol.get("readout") is None and protocol.get("branch") is None:
            continue
        if document.data.get("truth") == name and protocol.get("at_steps") is not None:
            rule = f"the truth must give each recipe one score, but {name!r} has at_steps"
            yield _problem(document, ("truth",), rule, "Give it one `step`")
        yield from _problems_of(document, ("protocols", name), protocol, asked)


def _asked_steps(path: KeyPath, protocol: dict[str, Any]) -> Iterator[tuple[KeyPath, int]]:
    """Every step a protocol names, with its path."""
    listed, branch = protocol.get("at_steps"), protocol.get("branch")
    found: list[tuple[KeyPath, Any]] = [((*path, "step"), protocol.get("step"))]
    several = listed if isinstance(listed, list) else []
    found += [((*path, "at_steps", place), step) for place, step in enumerate(several)]
    found.append(((*path, "branch", "at"), branch.get("at") if isinstance(branch, dict) else None))
    yield from ((at, step) for at, step in found if isinstance(step, int) and not isinstance(step, bool))


def _problems_of(
    document: YamlDocument, path: KeyPath, protocol: dict[str, Any], asked: list[tuple[KeyPath, int]]
) -> Iterator[Problem]:
    models = document.data.get("models")
    model = models.get(protocol.get("model")) if isinstance(models, dict) else None
    if not isinstance(model, dict):
        return
    if model.get("kind") not in ("decoder", "external"):
        rule = "steps, branches and read-outs are those of decoders, but the model's kind is " + repr(model.get("kind"))
        yield _problem(document, path, rule, "Leave them out, or give the model training of its own")
        return
    settings = _settings(document.data.get("training"), model.get("training"))
    space = protocol.get("space")
    is_swept = isinstance(space, dict) and any(axis in space for axis in _SWEPT)  # `point_steps` asks every point
    steps = None if settings is None or is_swept else known_steps(settings)
    for at, step in asked if settings is not None and steps is not None else ():
        assert settings is not None
        assert steps is not None
        problem = (branch_problem if at[-1] == "at" else step_problem)(settings.schedule, steps, step)
        if problem is not None:
            way_out = "Use a schedule of kind 'constant', or another step" if step <= steps else "Train for more steps"
            yield _problem(document, at, problem, way_out)


def _settings(training: Any, override: Any) -> TrainingSettings | None:
    """The model's settings; None where they have problems of their own, which are told elsewhere."""
    try:
        own = None if override is None else TrainingOverride.model_validate_json(json.dumps(override, default=str))
        return TrainingSettings.model_validate_json(json.dumps(training, default=str)).overridden_by(own)
    except (ValidationError, ValueError):
        return None


def _problem(document: YamlDocument, path: KeyPath, rule: str, way_out: str) -> Problem:
    return Problem(document.position(path), show_path(path), rule, way_out)
