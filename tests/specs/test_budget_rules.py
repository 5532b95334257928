"""Steps, branches and read-outs in a study file: what is refused, where, and what to do."""

import pytest

from raystudy.errors import SpecError
from raystudy.specs.base import canonical_json
from raystudy.specs.budgets import branch_problem, constant_until, step_problem
from raystudy.specs.load import load_study
from raystudy.specs.reading import Asked, Average, Ema, Reading
from raystudy.specs.run import StartsFrom
from raystudy.specs.schedules import Constant, Cosine, WarmupStableDecay
from tests.conftest import ROOT
from tests.planted import write_study
from tests.specs.test_identity import a_run
from tests.specs.test_study_file import STUDY, problems

CONSTANT = STUDY.replace("{steps: 10, batch_tokens: 64}", "{steps: 100, batch_tokens: 64, schedule: {kind: constant}}")
LOW = "low: {kind: reduced-lr, model: proxy, lr: 1e-4"


def low(fields: str, study: str = CONSTANT) -> str:
    return study.replace(LOW, f"{LOW}, {fields}")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("at_steps: [20, 101]", "study.yaml:11:66: protocols.low.at_steps[1]: a step must be one of the run's 100"),
        ("step: 3", "protocols.low.step: a step must come after the warm-up of 5 steps, but got 3"),
        ("step: 0", "protocols.low.step: must be greater than or equal to 1, but got 0"),
        (
            "step: 20, at_steps: [30]",
            "at most one of step, at_steps and branch may be given, but got step and at_steps",
        ),
        ("step: 20, branch: {at: 20, steps: 5}", "at most one of step, at_steps and branch"),
        ("at_steps: [20, 20]", "the steps of at_steps must differ"),
        ("at_steps: []", "must be a list of at least 1 item"),
        ("branch: {at: 101, steps: 5}", "protocols.low.branch.at: a step must be one of the run's 100, but got 101"),
        ("branch: {at: 50}", "the key 'steps' must be given"),
        ("readout: mean", "readout"),
        ("readout: {kind: average, share: 1.5}", "share: must be less than or equal to 1, but got 1.5"),
        ("readout: {kind: ema, half_life: 0}", "half_life: must be greater than 0"),
    ],
)
def test_a_wrong_step_branch_or_read_out_is_told_with_its_place(tmp_path, fields, expected):
    told = problems(tmp_path, low(fields))
    assert expected in told, told
    assert "Traceback" not in told


@pytest.mark.parametrize("fields", ["step: 8", "at_steps: [8]", "branch: {at: 9, steps: 2}"])
def test_a_step_of_a_schedule_that_has_begun_to_fall_is_refused(tmp_path, fields):
    falls = low(fields.replace("8", "9"), STUDY)
    assert "constant" in problems(tmp_path, falls)
    assert "Use a schedule of kind 'constant', or another step" in problems(tmp_path, falls)
    load_study(write_study(tmp_path, low("at_steps: [8]", STUDY)))  # WSD: constant until its last fifth


SWEPT = CONSTANT.replace("[1e-3, 1e-2]}}}", "[1e-3, 1e-2]}, tokens: {grid: [1280, 6400, 12800]}}, step: 50}")


def test_a_step_that_one_swept_budget_does_not_have_is_told_with_the_point(tmp_path):
    told = problems(tmp_path, SWEPT)
    assert "study.yaml:10:" in told
    assert "protocols.truth.step: a step must be one of the run's 20, but got 50 at the point of tokens 1,280" in told
    assert "Take an earlier step, or give every point of the space more steps" in told
    load_study(write_study(tmp_path, SWEPT.replace("1280, ", "")))
    longer = SWEPT.replace("1280, 6400, 12800", "12800").replace("step: 50", "step: 150").replace("64,", "32,")
    load_study(write_study(tmp_path, longer))  # 400 steps at the point, though 100 without it
    branch = SWEPT.replace("step: 50", "branch: {at: 50, steps: 4}")
    assert "protocols.truth.branch.at: a step must be one of the run's 20, but got 50" in problems(tmp_path, branch)
    few = SWEPT.replace("1280, 6400, 12800]}}, step: 50", "12800]}, warmup: {grid: [0, 0.1]}}, step: 9")
    assert "after the warm-up of 20 steps, but got 9 at the point of" in problems(tmp_path, few)
    rule = "lr: {ratio: 1, baseline: one, with_settings: true, space: {lr: {grid: [1e-3]}, tokens: {grid: [1280]}}}"
    carried = low("step: 50").replace("lr: 1e-4", rule)
    assert "protocols.low.step: a step must be one of the run's 20, but got 50" in problems(tmp_path, carried)
    load_study(write_study(tmp_path, carried.replace("with_settings: true, ", "")))


def test_a_step_beyond_a_budget_in_tokens_per_parameter_is_told(tmp_path):
    study = low("at_steps: [200, 400]").replace("steps: 100,", "tokens_per_parameter: 5,")
    assert "protocols.low.at_steps[1]: a step must be one of the run's 259, but got 400" in problems(tmp_path, study)


MATCHED = CONSTANT.replace(
    "context: 32}",
    "context: 32}, big: {kind: decoder, layers: 1, width: 32, heads: 2, context: 32, training: {steps: 300}}",
)
MATCHED = MATCHED.replace("steps: 100,", "steps: 100, match_epochs: big,")


def test_a_score_that_would_repeat_otherwise_than_a_run_of_its_own_length_is_refused(tmp_path):
    told = problems(tmp_path, low("at_steps: [100, 40]", MATCHED))
    assert "1 problem" in told
    assert "protocols.low.at_steps[1]: a score after 40 steps must read the share of each source's windows" in told
    assert "epochs of 'big', 0.133333, but a run of 100 steps reads 0.333333" in told
    assert "Give that budget a model of its own, or model 'proxy' `training: {match_epochs: proxy}`" in told
    for right in ("step: 100", "readout: ema", "branch: {at: 80, steps: 20}"):
        load_study(write_study(tmp_path, low(right, MATCHED)))
    assert "protocols.low.branch.at: a score after 90" in problems(
        tmp_path, low("branch: {at: 80, steps: 10}", MATCHED)
    )
    as_long = low("step: 40", MATCHED.replace("{steps: 300}", "{steps: 100}"))
    assert "big', 0.4, but a run of 100 steps reads all" in problems(tmp_path, as_long)
    load_study(write_study(tmp_path, as_long.replace("match_epochs: big", "match_epochs: proxy")))


def test_other_models_and_the_truth_are_told_what_they_cannot_have(tmp_path):
    several = CONSTANT.replace("[1e-3, 1e-2]}}}", "[1e-3, 1e-2]}}, at_steps: [20, 40]}")
    assert "the truth must give each recipe one score, but 'truth' has at_steps" in problems(tmp_path, several)
    load_study(write_study(tmp_path, several.replace("at_steps: [20, 40]", "step: 20")))
    with pytest.raises(SpecError, match="are those of decoders, but the model's kind is 'random-features'"):
        load_study(ROOT / "search_spaces" / "tiny-features.yaml", ["protocols.standard.step=5"])
    own_training = CONSTANT.replace("context: 32}", "context: 32, training: {tokens: 640}}")
    assert "one of the run's 10, but got 20" in problems(tmp_path, low("step: 20", own_training))


def test_a_candidate_at_a_step_can_stand_in_the_contrast(tmp_path):
    contrast = "\ncomparison: {contrast: [low@step20, low@step40]}"
    study = low("at_steps: [20, 40]") + contrast
    assert load_study(write_study(tmp_path, study)).spec.comparison.contrast == ("low@step20", "low@step40")
    assert "low@step30" in problems(tmp_path, study.replace("[low@step20,", "[low@step30,"))


def test_a_plain_name_is_a_read_out_with_its_defaults(tmp_path):
    for text, expected in (
        ("last", None),
        ("average", Average(kind="average")),
        ("ema", Ema(kind="ema")),
        ("{kind: ema, half_life: 5}", Ema(kind="ema", half_life=5.0)),
    ):
        study = load_study(write_study(tmp_path, low(f"readout: {text}"))).spec
        scoring = study.protocols["low"].scoring
        assert (scoring and scoring.readout) == expected
        assert type(study).model_validate_json(study.model_dump_json(exclude_unset=True)) == study


def test_only_a_branch_moves_the_id_of_a_run():
    run = a_run()
    assert "starts_from" not in canonical_json(run)
    branches = [
        run.model_copy(update={"starts_from": StartsFrom(run_id=run.run_id, step=step)}).run_id for step in (3, 4)
    ]
    assert len({run.run_id, *branches}) == 3
    with pytest.raises(ValueError, match="pattern"):
        StartsFrom(run_id="../x", step=1)


def test_a_learning_rate_is_constant_until_its_schedule_lets_it_fall():
    constant, cosine = Constant(kind="constant", warmup=0.1), Cosine(kind="cosine")
    wsd = WarmupStableDecay(kind="wsd", warmup=0.1, decay=0.2)
    assert [constant_until(schedule, 50) for schedule in (constant, wsd, cosine)] == [50, 40, 0]
    assert step_problem(wsd, 50, 40) is None
    assert "fall after step 40, and got 41" in step_problem(wsd, 50, 41)
    assert "from the warm-up on" in step_problem(cosine, 50, 20)
    assert step_problem(cosine, 50, 50) is None, "the end of a run is its score whatever the schedule"
    assert branch_problem(constant, 50, 50) is None
    assert "has left it at 50" in branch_problem(wsd, 50, 50)


def test_what_is_asked_of_a_run_is_joined_in_order_and_once():
    first = Asked(readings=(Reading(step=9), Reading(step=4)), checkpoints=(7,))
    second = Asked(readings=(Reading(step=4), Reading(step=4, readout=Ema(kind="ema"))), checkpoints=(3, 7))
    joined = first.joined(second)
    assert sorted(map(str, joined.readings)) == ["step 4", "step 4, ema", "step 9"]
    assert [reading.step for reading in joined.readings] == [4, 4, 9]
    assert joined.checkpoints == (3, 7)
    assert joined == second.joined(first)
