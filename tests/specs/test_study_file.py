"""A study file: every problem at once, each with place, key, rule, value and way out; odd but right input is read."""

from pathlib import Path

import pytest

from raystudy.artifacts.storage import open_storage
from raystudy.errors import DataError, SpecError
from raystudy.execute.inputs import check_files
from raystudy.specs.load import load_study
from raystudy.specs.yaml_file import parse_yaml, read_scalar
from tests.conftest import ROOT
from tests.planted import write_study

STUDY = """
name: mine
recipes:
  - {name: one, kind: text, dimension: corpus, sources: {s: {kind: embedded, domains: [prose]}}}
  - {name: two, kind: text, dimension: corpus, sources: {s: {kind: embedded, domains: [code]}}}
validation: {p: {source: {kind: embedded, domains: [prose]}}}
models: {proxy: {kind: decoder, layers: 1, width: 16, heads: 2, context: 32}}
training: {steps: 10, batch_tokens: 64}
protocols:
  truth: {kind: tuned, model: proxy, space: {lr: {grid: [1e-3, 1e-2]}}}
  low: {kind: reduced-lr, model: proxy, lr: 1e-4}
truth: truth
"""


def problems(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(write_study(folder, text), overrides)
    return str(caught.value)


def test_a_right_study_is_read(tmp_path):
    study = load_study(write_study(tmp_path, STUDY)).spec
    assert study.name == "mine"
    assert study.protocols["low"].lr.absolute == 1e-4


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_study_is_right(path):
    assert load_study(path).spec.truth


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps: 10", "stepz: 10", "'stepz' is not a known key. Did you mean 'steps'?"),
        ("layers: 1", "layers: one", "models.proxy.layers: must be a whole number, but got 'one'"),
        ("layers: 1", "layers: true", "models.proxy.layers: must be a whole number, but got True"),
        ("space: {lr: {grid: [1e-3, 1e-2]}}", "space: no.yaml", "must be a file, but"),
        ("[1e-3, 1e-2]", "[]", "grid: must be a list of at least 1 item(s), but got []"),
        ("  low:", "  truth:", "every name must occur once, but 'truth' occurs again"),
        ("name: two", "name: one", "every recipe's name must occur once, but 'one' occurs again"),
        ("name: mine", "name: a/b", "a name must not hold '/'"),
        ("name: mine", "name: 'a\\b'", "a name must not hold '/'"),
        ("name: mine", "name: a..b", "a name must not hold '/'"),
        ("name: mine", 'name: "a\\u0007b"', "control characters"),
        ("name: mine", "name: " + "x" * 201, "at most 200 characters, this one 201"),
        ("name: two", "name: ../two", "a name must not hold '/'"),
        ("domains: [prose]}}", "domains: [prose], weight: -1}}", "must be greater than or equal to 0, but got -1"),
        ("domains: [prose]}}", "domains: [prose], weight: 0}}", "at least one weight must be above 0"),
        ("truth: truth", "truth: trth", "must be the name of a protocol, but got 'trth'. Did you mean 'truth'?"),
        ("lr: 1e-4", "lr: 0", "protocols.low.lr: must be greater than 0, but got 0"),
        ("lr: 1e-4", "lr: -1e-4", "must be greater than 0, but got -0.0001"),
        ("lr: 1e-4", "lr: .nan", "must be a finite number, but got nan"),
        ("lr: 1e-4", "lr: {ratio: 0.1}", "all of ratio, baseline and space"),
        ("lr: 1e-4", "lr: {ratio: 1, baseline: tow, space: {lr: {grid: [1e-3]}}}", "Did you mean 'two'?"),
        (
            "lr: 1e-4",
            "lr: {ratio: 1, baseline: two, model: proxi, space: {lr: {grid: [1e-3]}}}",
            "protocols.low.lr.model: must be the name of a model, but got 'proxi'. Did you mean 'proxy'?",
        ),
        (
            "lr: 1e-4",
            "lr: {ratio: 1, baseline: two, best_on_average: true, space: {lr: {grid: [1e-3]}}}",
            "exactly one of baseline and best_on_average must be given",
        ),
        ("grid: [1e-3, 1e-2]", "grid: [1e-3, 1e-2], extend: 3", "must be less than or equal to 2, but got 3"),
        ("kind: reduced-lr", "kind: reduced", "Did you mean 'reduced-lr'?"),
        ("width: 16", "width: 15", "heads must divide width, but got width=15, heads=2"),
        ("batch_tokens: 64", "batch_tokens: 65", "batch_tokens must be a multiple of context, but got 65 and 32"),
        ("steps: 10", "steps: 10, tokens: 5", "exactly one of steps, tokens, tokens_per_parameter"),
        ("truth: truth", "", "the key 'truth' must be given. Add `truth:` here"),
        ("model: proxy, lr", "model: prox, lr", "must be the name of a model, but got 'prox'. Did you mean 'proxy'?"),
        ("name: mine", "name: [mine", "not valid YAML"),
        ("name: two", "name: [two]", "recipes[1].name: must be text, but got ['two']"),
        ("model: proxy, lr", "model: [proxy], lr", "must be text, but got ['proxy']"),
        ("steps: 10", "steps: " + "9" * 5000, "must be a whole number, but got"),
        ("steps: 10", "steps: 99999999999999999999", "steps: "),
        ("steps: 10", "tokens_per_parameter: 1e308", "must be less than or equal to 1000000"),
        ("steps: 10", "steps: 10, clip: .inf", "must be a finite number, but got inf"),
        ("context: 32}", "context: 32, training: {batch_tokens: null}}", "only `clip` may be null"),
        ("[1e-3, 1e-2]", "[1.00000001e-3, 1e-3]", "must differ at 6 digits"),
        ("space: {lr: {grid: [1e-3, 1e-2]}}", "space: " + "x" * 300, "must be a file, but"),
        ("truth: truth", "truth: truth\ncomparison: {contrast: [low]}", "must be a list of at least 2 items"),
        ("name: mine", "name: !!python/object:os.system x", "tags are not allowed"),
        (
            "context: 32}}\ntraining: {steps: 10, batch_tokens: 64}\nprotocols:\n  truth: {kind: tuned,",
            "context: 32, engine: deepspeed}}\ntraining: {steps: 10, batch_tokens: 64}\nprotocols:\n"
            "  truth: {kind: tuned, readout: ema,",
            "protocols.truth.readout: weights of model 'proxy', which engine 'deepspeed' trains, are read as they are",
        ),
        (
            "context: 32}}\ntraining: {steps: 10, batch_tokens: 64}\nprotocols:\n  truth: {kind: tuned,",
            "context: 32, engine: deepspeed}}\ntraining: {steps: 10, batch_tokens: 64}\nprotocols:\n"
            "  truth: {kind: tuned, branch: {at: 5, steps: 2},",
            "are read as they are after a step, but got a branch. Leave it out, or use `step`",
        ),
    ],
)
def test_a_wrong_file_is_told_with_key_rule_value_and_way_out(tmp_path, old, new, expected):
    assert old in STUDY
    assert expected in problems(tmp_path, STUDY.replace(old, new, 1))


def test_one_recipe_is_nothing_to_compare(tmp_path):
    text = "\n".join(line for line in STUDY.splitlines() if "name: two" not in line)
    assert "at least two recipes must be given to compare, but got one" in problems(tmp_path, text)


def test_all_problems_of_a_file_are_told_at_once_in_its_order(tmp_path):
    wrong = STUDY.replace("layers: 1", "layers: 0, depth: 2").replace("1e-4", "0").replace("truth: truth", "truth: x")
    lines = problems(tmp_path, wrong).splitlines()
    assert lines[0].endswith("4 problems")
    assert [line.split(": ")[1] for line in lines[1:]] == [
        "models.proxy.layers",
        "models.proxy.depth",
        "protocols.low.lr",
        "truth",
    ]
    assert "study.yaml:7:" in lines[1]


def test_a_missing_file_is_told_without_a_traceback(tmp_path, cli):
    done = cli("check", tmp_path / "none.yaml")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_set_overrides_with_the_same_checks(tmp_path):
    path = write_study(tmp_path, STUDY)
    study = load_study(path, ["training.steps=7", "protocols.low.seeds=[0, 1]", "recipes.two.control=true"]).spec
    assert study.training.steps == 7
    assert study.protocols["low"].seeds == (0, 1)
    assert study.recipes[1].control
    assert "--set training.stps=7: training.stps: 'stps' is not a known key" in problems(
        tmp_path, STUDY, "training.stps=7"
    )
    assert "must be key=value" in problems(tmp_path, STUDY, "training.steps")
    assert "'nothing' is not a known key" in problems(tmp_path, STUDY, "nothing.here=1")
    assert "no such key in the study" in problems(tmp_path, STUDY, "recipes.²=1")
    assert load_study(path, ["comparison.resamples=150"]).spec.comparison.resamples == 150


def test_set_reaches_what_catalogues_and_search_spaces_bring(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "recipes: [{name: mine, kind: text, dimension: corpus, sources: {s: {kind: text, files: [a.txt]}}}]\n"
    )
    (tmp_path / "space.yaml").write_text("lr: {grid: [1e-3, 1e-2]}\n")
    text = STUDY.replace("recipes:\n", "catalogues: [c.yaml]\nrecipes:\n  - mine\n")
    path = write_study(tmp_path, text.replace("space: {lr: {grid: [1e-3, 1e-2]}}", "space: space.yaml"))
    study = load_study(path, ["recipes.mine.control=true", "protocols.truth.space.lr.grid=[3e-3]"]).spec
    assert study.recipes[0].control
    assert study.protocols["truth"].space.lr.values() == (3e-3,)


def test_one_wrong_item_of_a_list_is_one_problem(tmp_path):
    assert "1 problem\n" in problems(tmp_path, STUDY.replace("domains: [code]", "domains: [cod]"))


def test_an_unknown_key_of_a_catalogue_is_told(tmp_path):
    (tmp_path / "c.yaml").write_text("recipes: []\nrecipies: []\n")
    assert "recipies: is not a known key of a catalogue" in problems(tmp_path, STUDY + "catalogues: [c.yaml]\n")


def test_a_folder_with_the_signs_of_a_pattern_is_a_folder(tmp_path):
    folder = tmp_path / "my [v2]"
    text = STUDY.replace("{kind: embedded, domains: [code]}", "{kind: text, files: [notes/*.txt]}")
    path = write_study(folder, text)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("some text")
    check_files(load_study(path).spec)
    (folder / "notes" / "a.txt").unlink()
    with pytest.raises(DataError, match="matches no file"):
        check_files(load_study(path).spec)


def test_recipes_come_from_a_shared_catalogue_and_files_are_relative_to_it(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "catalogue.yaml").write_text(
        "recipes:\n  - {name: mine, kind: text, dimension: corpus, sources: {s: {kind: text, files: [a.txt]}}}\n"
    )
    text = STUDY.replace("recipes:\n", "catalogues: [shared/catalogue.yaml]\nrecipes:\n  - mine\n")
    study = load_study(write_study(tmp_path, text)).spec
    assert study.recipes[0].sources["s"].files == (str(tmp_path / "shared" / "a.txt"),)
    wrong = problems(tmp_path, text.replace("- mine", "- other"))
    assert "must be a recipe of a catalogue or a map, but got 'other'. Known: mine" in wrong


def test_a_problem_inside_a_catalogue_names_the_catalogue(tmp_path):
    (tmp_path / "c.yaml").write_text("recipes:\n  - {name: mine, kind: text, dimension: corpus, sorces: {}}\n")
    text = STUDY.replace("recipes:\n", "catalogues: [c.yaml]\nrecipes:\n  - mine\n")
    assert f"{tmp_path}/c.yaml:2:" in problems(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("null", None),
        ("~", None),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("-3", -3),
        ("+.inf", float("inf")),
        ("数据", "数据"),
        ("nan", "nan"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(text, value):
    assert read_scalar(text) == value
    assert parse_yaml(f"key: {text}", "here").data == {"key": value}


def test_names_in_any_script_are_read(tmp_path):
    text = STUDY.replace("name: mine", "name: 数据 Ünïcode δ").replace("name: two", 'name: "no"')
    study = load_study(write_study(tmp_path, text)).spec
    assert study.name == "数据 Ünïcode δ"
    assert study.recipes[1].name == "no"


def test_an_alias_bomb_is_refused(tmp_path):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "an alias must not hold itself or explode" in problems(tmp_path, bomb)


def test_the_resolved_study_reads_back_the_same(tmp_path):
    text = STUDY.replace("context: 32}", "context: 32, training: {steps: 5, clip: null}}")
    loaded = load_study(write_study(tmp_path, text))
    folder = open_storage(tmp_path).study("mine")
    folder.write_study(loaded, {"vocabulary": 7})
    study, inputs = folder.read_study()
    assert study == loaded.spec
    assert study.settings_of("proxy") == loaded.spec.settings_of("proxy")
    assert (study.settings_of("proxy").clip, study.settings_of("proxy").steps) == (None, 5)
    assert inputs == {"vocabulary": 7}
