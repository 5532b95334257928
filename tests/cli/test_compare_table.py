"""`raystudy compare --table`: options, messages, the public RegMix tables, and the example of the page."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from raystudy.cli.main import main
from tests.conftest import ROOT

DATA = next((d for d in (ROOT.parent / "shared" / "data", ROOT.parent.parent / "shared" / "data") if d.exists()), None)
TABLE = "recipe,protocol,seed,score\n" + "".join(
    f"r{recipe},{protocol},{seed},{recipe * factor + seed / 10 + (recipe * seed) % 3 / 50}\n"
    for protocol, factor in (("big", 1.0), ("small", 0.7), ("noise", -1.0))
    for recipe in range(9)
    for seed in (0, 1)
)


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "scores.csv"
    path.write_text(TABLE)
    return path


def compare(*arguments: object) -> int:
    return main(["compare", *map(str, arguments)])


def test_it_prints_the_table_and_writes_the_comparison(table, tmp_path, capsys):
    out = tmp_path / "out.json"
    settings = ("--seed", 3, "--resamples", 200, "--json", out)
    assert compare("--table", table, "--truth", "big", "--candidate", "small", *settings) == 0
    printed = capsys.readouterr().out
    comparison = json.loads(out.read_text())
    assert comparison["verdict"]["sentence"] in printed
    assert "lower-is-better" in printed
    assert (comparison["generator_seed"], comparison["resamples"], comparison["study"]) == (3, 200, "scores.csv")
    assert [entry["candidate"] for entry in comparison["comparisons"]] == ["small"]
    assert list(tmp_path.iterdir()) in ([out, table], [table, out])


def test_without_candidate_every_other_protocol_is_one_and_json_stands_alone(table, capsys):
    assert compare("--table", table, "--truth", "big", "--resamples", 100, "--json") == 0
    comparison = json.loads(capsys.readouterr().out)
    assert [entry["candidate"] for entry in comparison["comparisons"]] == ["noise", "small"]
    assert comparison["contrast"]["outcome"] == "b"


def test_higher_is_better_turns_all_metrics_or_those_named(table, capsys):
    common = ("--table", table, "--truth", "big", "--resamples", 100)
    assert compare(*common, "--higher-is-better", "--json") == 0
    turned = json.loads(capsys.readouterr().out)
    assert {entry["direction"] for entry in turned["comparisons"]} == {"higher-is-better"}
    assert compare(*common, "--higher-is-better", "scroe") == 2
    assert "--higher-is-better must be a metric of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("--table {t}", 2, "--table must come with --truth"),
        ("", 2, "compare must have a STUDY, or --table FILE --truth NAME"),
        ("study.yaml --table {t} --truth big", 2, "STUDY and --table exclude each other"),
        ("study.yaml --truth big", 2, "--truth goes with --table only"),
        ("study.yaml --higher-is-better", 2, "--higher-is-better goes with --table only"),
        ("--table {t} --truth big --set a=1", 2, "--set goes with a STUDY only"),
        ("--table {t} --truth bgi", 2, "--truth must be a protocol of {t}, but got 'bgi'. Did you mean 'big'?"),
        ("--table {t} --truth big --candidate smal", 2, "Did you mean 'small'?"),
        ("--table {t} --truth big --candidate big", 2, "another protocol than the truth"),
        ("--table {t} --truth big --column recipe", 2, "Name the table's column after '='"),
        ("--table {t} --truth big --column recipes=x", 2, "Did you mean 'recipe'?"),
        ("--table {t} --truth big --column recipe=reciep", 4, "Did you mean 'recipe'?"),
        ("--table {t} --truth big --resamples 10", 2, "--resamples must be from 100"),
        ("--table {t} --truth big --seed -1", 2, "--seed must be 0 or more"),
        ("--table {t}.none --truth big", 4, "No such file"),
        ("--table {t}.none --truth big --json --candidate small --column score=x", 4, "No such file"),
    ],
)
def test_wrong_options_give_one_message_and_their_exit_status(table, capsys, arguments, status, message):
    words = shlex.split(arguments.replace("{t}", shlex.quote(str(table))))
    assert compare(*words) == status
    told = capsys.readouterr()
    assert message.replace("{t}", str(table)) in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("recipe,score\na,1\n", 4, "must have a column 'protocol'"),
        ("recipe,protocol,score\na,big,1\nb,big,2\n", 2, "must have a protocol beside the truth"),
        ("recipe,protocol,score\na,big,1\na,small,2\n", 4, "two recipes or more"),
        ("recipe,protocol,score\na,big,1\na,big,2\n", 4, "line 3: each recipe, protocol must occur once"),
        ("recipe,protocol,score\na,big,one\n", 4, "line 2: every score must be a finite number, but got 'one'"),
    ],
)
def test_wrong_tables_give_one_message_and_exit_status_4(table, capsys, text, status, message):
    table.write_text(text)
    assert compare("--table", table, "--truth", "big") == status
    assert message in capsys.readouterr().err


def test_the_example_of_the_page_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    blocks = (ROOT / "docs" / "your-own-table.md").read_text().split("```")[1::2]
    csv = next(block for block in blocks if block.startswith("csv\n")).removeprefix("csv\n")
    commands = next(block for block in blocks if block.startswith("bash\n")).removeprefix("bash\n")
    shown = next(block for block in blocks if block.startswith("text\n")).removeprefix("text\n")
    (tmp_path / "scores.csv").write_text(csv)
    monkeypatch.chdir(tmp_path)
    (command,) = commands.strip().splitlines()
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_regmix_tables_give_the_figures_of_their_readme(suffix, tmp_path, capsys):
    if DATA is None:
        pytest.skip("needs the public RegMix tables in ../shared/data")
    parts = []
    for size in ("1m", "60m"):
        frame = pd.read_csv(DATA / f"regmix_test_pile_loss_{size}.csv").set_index("index")
        assert frame.shape == (256, 13)
        wide = frame.assign(mean=frame.mean(axis=1)).reset_index()
        parts.append(wide.melt(id_vars="index", var_name="domain", value_name="loss").assign(model=size))
    joined = set(parts[0]["index"]) & set(parts[1]["index"])
    long = pd.concat([part[part["index"].isin(joined)] for part in parts])
    path = tmp_path / f"regmix.{suffix}"
    long.to_csv(path, index=False) if suffix == "csv" else long.to_parquet(path, index=False)
    columns = ("recipe=index", "protocol=model", "metric=domain", "score=loss")
    resamples = 1000 if suffix == "csv" else 100
    options = ("--table", path, "--truth", "60m", "--candidate", "1m", "--resamples", resamples, "--json")
    assert compare(*options, "--column", *columns) == 0
    by_metric = {e["metric"]: e for e in json.loads(capsys.readouterr().out)["comparisons"]}
    mean = by_metric.pop("mean")
    assert mean["num_recipes"] == 256
    assert round(mean["spearman"]["value"], 3) == 0.966
    assert round(mean["decision_accuracy"]["value"], 3) == 0.924
    assert round(mean["regret"]["1"]["best_of_k"]["value"], 3) == 0.008
    assert mean["spearman"]["these_recipes"] is None
    assert mean["spearman"]["recipes_like_these"]["low"] < 0.966 < mean["spearman"]["recipes_like_these"]["high"]
    found = [entry["spearman"]["value"] for entry in by_metric.values()]
    assert (len(found), round(min(found), 3), round(max(found), 3)) == (13, 0.980, 0.998)
