"""The budget of a study is hard: across launches, in device-hours and in money, and told before anything starts."""

import io
import json
from dataclasses import replace

import pytest

from raystudy.artifacts.storage import Storage, open_storage
from raystudy.cli.main import main
from raystudy.errors import BudgetError
from raystudy.execute.budget import Budget, Spending
from raystudy.execute.budget_check import check_budget
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.work import RunReport
from raystudy.specs.load import load_study
from raystudy.specs.study_budget import Prices
from raystudy.study.spending import over_budget, read_spending, tried_seconds
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave
from tests.conftest import ROOT
from tests.planted import inputs_of, record_of, study_spec, write_study
from tests.specs.test_study_file import STUDY, problems

FEATURES = ROOT / "search_spaces" / "tiny-features.yaml"
HOUR = 3600.0
PRICES = {"as_of": "2026-11-01", "cpu_core": 0.5, "gpus": {"A100": 1.5, "H100": 3.0, "H100 80GB": 2.0}}


def money(amount):
    return {"money": amount, "currency": "EUR", "prices": PRICES}


def a_state(budget, recorded=0, seconds=HOUR, device="cpu", name=""):
    """The planted study with a budget, and so many of its target's runs on record; what is left to run."""
    study = study_spec(budget=budget, resources={"gpus_per_run": 1} if device == "cuda" else {"cpus_per_run": 2})
    inputs, made = inputs_of(study), {"device": device, "device_name": name, "num_devices": 2}
    todo = [run for run in make_wave(StudyState(study, inputs, {})).todo if run.model == "target"]
    result = {"seconds": {"total": seconds}, "provenance": made}
    records = {run.run_id: replace(record_of(run, 3.0, inputs), result=result) for run in todo[:recorded]}
    return StudyState(study, inputs, records), todo[recorded:]


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("{device_hours: 0}", "budget.device_hours: must be greater than 0, but got 0"),
        ("{money: 5, currency: EUR}", r"budget: a budget of money needs prices.*Add `prices: \{as_of: YYYY-MM-DD"),
        ("{money: 5, prices: {as_of: 2026-11-01, cpu_core: 1}}", "must say their currency, but do not"),
        ("{money: 5, currency: EUR, prices: {as_of: 2026-11-01}}", "must have a price for CPU cores.*Add `cpu_core:`"),
        ("{money: 5, currency: euro, prices: {as_of: 2026-11-01, cpu_core: 1}}", "three capital letters"),
        ("{money: 5, currency: EUR, prices: {as_of: yesterday, cpu_core: 1}}", "a day as YYYY-MM-DD, but got"),
        ("{hours: 5}", "'hours' is not a known key"),
        ("{}", "must bound device_hours or money, but bounds nothing"),
    ],
)
def test_a_budget_that_bounds_nothing_or_has_no_prices_is_refused_with_the_way_out(tmp_path, budget, told):
    said = problems(tmp_path, f"{STUDY}\nbudget: {budget}\n")
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(said)


def test_gpus_need_a_price_of_their_own_and_a_budget_is_in_no_runs_identity(tmp_path):
    text = (
        f"{STUDY}\nresources: {{gpus_per_run: 1}}\nbudget: {{money: 5, currency: EUR, prices: {{as_of: 2026-11-01}}}}"
    )
    assert "must have a price for GPUs" in problems(tmp_path, text)
    with_prices = text.replace("as_of: 2026-11-01", "as_of: 2026-11-01, gpus: {H100: 2.5}")
    study = load_study(write_study(tmp_path, with_prices)).spec
    assert study.budget.prices.gpu("NVIDIA H100 80GB HBM3") == study.budget.prices.gpu("unknown") == 2.5
    assert {run.run_id for run in a_state(money(1))[1]} == {run.run_id for run in a_state(None)[1]}


def test_a_gpu_costs_what_the_longest_name_that_fits_says_and_an_unknown_one_what_the_dearest_does():
    prices = Prices.model_validate(PRICES)
    names = {"NVIDIA H100 80GB HBM3": 2.0, "NVIDIA H100 PCIe": 3.0, "nvidia a100-sxm4-40gb": 1.5, "": 3.0, "B200": 3.0}
    assert {name: prices.gpu(name) for name in names} == names


def test_what_was_spent_and_what_is_missing_is_told_with_the_day_of_the_prices(tmp_path):
    state, todo = a_state({"device_hours": 1000, **money(1000)}, recorded=4)
    spending = read_spending(state, Storage(tmp_path))
    assert (spending.spent.device_hours, spending.spent.money) == (8.0, 4.0), "four runs of an hour on two cores"
    rate = todo[0].flops / HOUR  # the measured speed: all runs of the target are alike
    wave = make_wave(state)
    flops = sum(run.flops for run in wave.todo) + sum(item.flops for _, item in wave.waiting)
    assert spending.missing.device_hours == pytest.approx(2 * flops / rate / HOUR)
    first, *limits = spending.lines()
    assert first.endswith("prices as of 2026-11-01")
    assert "8 device-hours (4 EUR) spent" in first
    assert limits[0].startswith("budget: budget.device_hours 1000, of which 8 are spent")
    assert over_budget(spending) is None
    tight = read_spending(a_state({"device_hours": 9}, recorded=4)[0], Storage(tmp_path))
    assert "must fit into budget.device_hours 9, of which 1 are left, but is estimated at" in over_budget(tight)
    told = over_budget(read_spending(a_state({"device_hours": 1e-9})[0], Storage(tmp_path)))
    assert "at an assumed speed. Raise" in told
    assert "--max-runs 4`, on the devices of the study, measures" in told
    on_gpu = read_spending(a_state(money(100), 1, device="cuda", name="NVIDIA A100-SXM4-40GB")[0], Storage(tmp_path))
    assert on_gpu.spent.money == 3.0, "an hour on two of them"


@pytest.mark.parametrize(("budget", "fit"), [({"device_hours": 20}, 6), (money(9.0), 5)])
def test_runs_start_only_while_the_study_has_budget_left_and_records_of_before_count(budget, fit):
    """Each run takes an hour on two cores, so 2 device-hours and 1 EUR; four are on record."""
    state, todo = a_state(budget, recorded=4)
    spending = Spending(Budget(), state.study.resources, num_at_once=2)
    started = []
    while chosen := spending.affordable([run for run in todo if run.run_id not in state.records], state):
        started += chosen
        result = {"seconds": {"total": HOUR}, "provenance": {"num_devices": 2, "device": "cpu"}}
        made = {run.run_id: replace(record_of(run, 3.0, state.inputs), result=result) for run in chosen}
        state = state.with_records({**state.records, **made})
        for run in chosen:
            spending.ended(run, HOUR, is_made=True)
    assert len(started) == fit
    assert spending.words().startswith("budget.money 9 EUR, of which 9" if "money" in budget else "budget.device_hours")
    spending.ended(started[0], HOUR, is_made=False)
    assert not spending.affordable(todo, state), "what failed counts too"


def test_an_assumed_speed_keeps_no_run_from_showing_what_it_takes():
    """Of a budget that no run fits into by the assumption, one starts; what has been timed is held to its times."""
    state, _ = a_state({"device_hours": 1e-9})
    todo = make_wave(state).todo
    spending = Spending(Budget(max_runs=4), state.study.resources, num_at_once=2)
    (first,) = spending.affordable(todo, state)
    assert (first.model, first.flops) == ("proxy", min(run.flops for run in todo)), "the cheapest that measures"
    assert spending.num_started == 1
    spending.ended(first, HOUR, is_made=False)
    assert not spending.affordable(todo, state), "nothing is left"


def test_what_does_not_fit_is_passed_over_for_what_does():
    """The target's runs take two device-hours of the one left, the proxy's 0.2 each; ten of twelve are on record."""
    state, targets = a_state({"device_hours": 21}, recorded=10)
    proxies = [run for run in make_wave(state).todo if run.model == "proxy"]
    spending = Spending(Budget(), state.study.resources, num_at_once=2)
    left = [*targets[:2], *proxies]
    assert left[0].model == "target"
    started = []
    while chosen := spending.affordable([run for run in left if run.run_id not in state.records], state):
        started += chosen
        result = {"seconds": {"total": HOUR / 10}, "provenance": {"num_devices": 2, "device": "cpu"}}
        made = {run.run_id: replace(record_of(run, 3.0, state.inputs), result=result) for run in chosen}
        state = state.with_records({**state.records, **made})
        for run in chosen:
            spending.ended(run, HOUR / 10, is_made=True)
    assert [run.model for run in started] == ["proxy"] * 5
    assert spending.words().startswith("budget.device_hours 21, of which 21")


class Dear(InlineExecutor):
    """A mock: every run fails, and is said to have taken an hour."""

    def run(self, tasks):
        for task in tasks:
            yield from (RunReport(run.run_id, "failed", seconds=HOUR, cause="planted") for run in task.specs())


def test_what_tries_had_done_up_to_a_checkpoint_is_counted_once_in_this_launch_and_in_the_next(tmp_path):
    """Runs of two cores: tries of 90 and 30 minutes failed, the last took two hours from a checkpoint at 60 or 180."""
    storage = Storage(tmp_path)
    for earlier, hours in ((HOUR, 2 * 4), (3 * HOUR, 2 * 5), (0.0, 2 * 4)):  # 180: a try was lost with its driver
        state, (run, *_) = a_state({"device_hours": 1000})
        result = {"seconds": {"total": earlier + 2 * HOUR, "earlier": earlier}, "provenance": {"num_devices": 2}}
        after = state.with_records({run.run_id: replace(record_of(run, 3.0, state.inputs), result=result)})
        spending = Spending(Budget(), state.study.resources, num_at_once=2)
        for seconds in (1.5 * HOUR, 0.5 * HOUR):
            spending.reported(run, RunReport(run.run_id, "failed", seconds=seconds), had_record=False)
        made = RunReport(run.run_id, "finished", seconds=2 * HOUR, is_made=True)
        spending.reported(run, made, had_record=False)
        assert spending.device_seconds == 8 * HOUR
        spending.affordable([], after)
        (limit,) = spending._limits(after)
        assert limit.words.endswith(f"of which {hours:g} are used")
        if not storage.runs.read_attempts(run.run_id):
            for seconds in (1.5 * HOUR, 0.5 * HOUR):
                storage.runs.write_attempt(run.run_id, {"cause": "x", "seconds": seconds})
        assert read_spending(after, storage).spent.device_hours == hours
        spending = Spending(Budget(), state.study.resources, num_at_once=2)
        spending.tried = tried_seconds(after, storage)
        assert f"of which {hours:g} are used" in spending._limits(after)[0].words
    spending.reported(run, replace(made, is_made=False), had_record=False)  # its worker died after it
    assert spending._limits(after)[0].left == 1000 - 8, "its record holds them"
    spending.reported(run, replace(made, is_made=False), had_record=True)
    assert spending._limits(after)[0].left == 1000 - 12, "an evaluation, which no record holds"


def test_the_attempts_of_many_runs_are_read_after_one_listing(s3, s3_uri):
    state, _ = a_state({"device_hours": 1000})
    storage = open_storage(s3_uri)
    wanted = make_wave(state).wanted
    tried = list(wanted)[::3]
    for run_id in tried:
        storage.runs.write_attempt(run_id, {"cause": "x", "seconds": 60.0})
    s3.faults.calls.clear()
    assert tried_seconds(state, open_storage(s3_uri)) == dict.fromkeys(tried, 60.0)
    assert len(wanted) > 20
    assert s3.faults.calls.total() <= len(tried) + 3, s3.faults.calls


def test_a_launch_stops_at_the_studys_budget_and_the_next_does_not_begin(tmp_path, capsys):
    where = ("--storage", tmp_path, "--set", "budget={device_hours: 2.5e-5}")
    run = [str(word) for word in ("run", FEATURES, *where, "--local", "--workers", "0")]
    assert main(run) == BudgetError.exit_status == 8
    assert "stopped at the budget (budget.device_hours 2.5e-05, of which" in capsys.readouterr().err
    made = list(tmp_path.glob("runs/*/result.json"))
    assert made
    run[run.index("budget={device_hours: 2.5e-5}")] = "budget={device_hours: 1e-9}"  # what is spent is above it
    assert main(run) == 8
    assert list(tmp_path.glob("runs/*/result.json")) == made
    capsys.readouterr()
    assert main(["plan", *run[1:6], "--json"]) == 0
    spending = json.loads(capsys.readouterr().out)["spending"]
    assert spending["spent"]["device_hours"] > 0
    assert spending["budget"]["device_hours"] == 1e-9
    out = str(tmp_path / "w")
    assert main(["plan", *run[1:6], "--emit", "jsonl", "--out", out]) == 8
    assert "a wave must fit into the study's budget, but nothing of it does" in capsys.readouterr().err


def test_a_study_is_not_handed_to_a_cluster_when_its_budget_does_not_suffice(tmp_path):
    with pytest.raises(
        BudgetError, match=r"must fit into budget.device_hours 1e-09, of which 1e-09 are left.*measures"
    ):
        check_budget(load_study(FEATURES, ["budget={device_hours: 1e-9}"]), Storage(tmp_path))
    check_budget(load_study(FEATURES, ["budget={device_hours: 1e9}"]), Storage(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_tries_that_failed_in_an_earlier_launch_count(tmp_path):
    loaded, counts = load_study(FEATURES, ["budget={device_hours: 4}"]), []
    for _ in range(2):
        done = run_study(loaded, Storage(tmp_path), Dear, Progress(io.StringIO()))
        counts.append(len(list(tmp_path.glob("runs/*/attempts/*.json"))))
        assert "budget.device_hours 4" in done.budget
    assert counts[0] == counts[1] >= 4


def test_a_day_and_a_price_must_be_real():
    for wrong in ({"as_of": "2026-02-30"}, {"as_of": "2026-11-01", "cpu_core": -1}):
        with pytest.raises(ValueError, match=r"must be a day|greater than or equal to 0"):
            Prices.model_validate(wrong)
