"""Steps that a study names and some run does not have, or at which its data would not be those of a run so short.

Asked of every point that a protocol's model may be trained at, once all else in the file is right: a budget that is
swept, or that rests on a number of parameters, says only then how many steps a run has.
"""

from collections.abc import Iterator

from raystudy.specs.budgets import branch_problem, step_problem
from raystudy.specs.epochs import matched_model, windows_share
from raystudy.specs.point import Changes, Point, changes_in_words
from raystudy.specs.point_settings import settings_at
from raystudy.specs.protocol import (
    Checkpoint,
    LrLadderProtocol,
    ReducedLrProtocol,
    StandardLrProtocol,
    TunedProtocol,
)
from raystudy.specs.space import SearchSpace
from raystudy.specs.study import StudyDecoder, StudySpec
from raystudy.specs.training import RunSettings, resolve_settings
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_ANY_VOCABULARY, _ANY_LR = 2, 1.0  # neither has a say in what is asked here

_Training = TunedProtocol | LrLadderProtocol | ReducedLrProtocol | StandardLrProtocol
_Runs = dict[Changes, RunSettings]  # settings that a protocol's runs may have, by what changes beside the learning rate


def point_step_problems(study: StudySpec, document: YamlDocument) -> Iterator[Problem]:
    """Every step of a protocol that one of its runs does not have, or could not be scored at."""
    for name, protocol in study.protocols.items():
        if isinstance(protocol, _Training) and isinstance(study.models[protocol.model], StudyDecoder):
            asked = list(_asked(name, protocol))
            runs = _runs(study, protocol) if asked else {}
            for path, step, end in asked:
                problem = _without_step(document, path, step, runs)
                problem = problem or _lent(study, document, protocol.model, path, end, runs)
                yield from [] if problem is None else [problem]
        at = getattr(protocol, "at", None)
        if isinstance(at, Checkpoint) and at.step is not None:
            yield from _checkpoint(study, document, ("protocols", name, "at", "step"), at, at.step)


def _asked(name: str, protocol: _Training) -> Iterator[tuple[KeyPath, int, int]]:
    """Every step that the protocol's runs must have, its place, and after how many steps the score is taken."""
    path: KeyPath = ("protocols", name)
    if protocol.step is not None:
        yield (*path, "step"), protocol.step, protocol.step
    for place, step in enumerate(protocol.at_steps or ()):
        yield (*path, "at_steps", place), step, step
    if protocol.branch is not None:
        yield (*path, "branch", "at"), protocol.branch.at, protocol.branch.at + protocol.branch.steps


def _runs(study: StudySpec, protocol: _Training) -> _Runs:
    if isinstance(protocol, TunedProtocol | LrLadderProtocol):
        space: SearchSpace | None = protocol.space
    else:
        space = protocol.lr.space if protocol.lr.with_settings else None
    changes: list[Changes] = [()] if space is None else list(dict.fromkeys(point.changes for point in space.points()))
    shape, training = study.decoder(protocol.model).shape, study.settings_of(protocol.model)
    return {
        own: resolve_settings(settings_at(training, Point(_ANY_LR, own)), shape, _ANY_VOCABULARY, _ANY_LR)
        for own in changes
    }


def _where(changes: Changes) -> str:
    return f" at the point of {', '.join(changes_in_words(changes))}" if changes else ""


def _without_step(document: YamlDocument, path: KeyPath, step: int, runs: _Runs) -> Problem | None:
    judge = branch_problem if path[-1] == "at" else step_problem
    for changes, run in runs.items():
        rule = judge(run.schedule, run.steps, step)
        if rule is not None:
            way_out = "Use a schedule of kind 'constant', or another step"
            if step > run.steps:
                longer = "give every point of the space more steps" if changes else "train for more steps"
                way_out = f"Take an earlier step, or {longer}"
            return _problem(document, path, rule + _where(changes), way_out)
    return None


def _lent(study: StudySpec, document: YamlDocument, model: str, path: KeyPath, end: int, runs: _Runs) -> Problem | None:
    """A score after `end` steps that reads other windows than a run of so many steps, which matches epochs."""
    named = matched_model(study, model)
    for changes, run in runs.items() if named not in (None, model) else ():
        step_tokens = run.batch_sequences * study.decoder(model).context
        shares = [windows_share(study, model, _ANY_VOCABULARY, steps * step_tokens) for steps in (run.steps, end)]
        if shares[0] != shares[1]:
            whole, own = ("all" if share is None else f"{share:g}" for share in shares)
            rule = (
                f"a score after {end} steps must read the share of each source's windows by which a run of so many "
                f"steps matches the epochs of {named!r}, {own}, but a run of {run.steps} steps"
                f"{_where(changes)} reads {whole}"
            )
            way_out = f"Give that budget a model of its own, or model {model!r} `training: {{match_epochs: {model}}}`"
            return _problem(document, path, rule, way_out)
    return None


def _checkpoint(
    study: StudySpec, document: YamlDocument, path: KeyPath, at: Checkpoint, step: int
) -> Iterator[Problem]:
    """A probe's step must be one of every run that it may read."""
    named = study.protocols[at.protocol]
    assert isinstance(named, _Training)  # the rules on names have made sure
    if named.branch is not None:
        least, noun, where = named.branch.steps, "branches", ""
    else:
        runs = _runs(study, named)
        changes = min(runs, key=lambda point: runs[point].steps)
        least, noun, where = runs[changes].steps, "runs", _where(changes)
    if step > least:
        rule = f"a step must be one of the {least} of the {noun} of {at.protocol!r}{where}, but got {step}"
        yield _problem(document, path, rule, "Take an earlier step, or leave `step` out for the last weights")


def _problem(document: YamlDocument, path: KeyPath, rule: str, way_out: str) -> Problem:
    return Problem(document.position(path), show_path(path), rule, way_out)
