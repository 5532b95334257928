"""`raystudy storage`: shared things are counted once, only the unused is removed, every kind of damage is named."""

import json
import shutil
import struct

import pytest

from raystudy.execute.driver_lock import hold_study
from tests.cli.conftest import contents
from tests.conftest import FEATURES, make_shards

NAME = "tiny-features"


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def study_file(storage, name=NAME):
    return storage / "studies" / name / "study.json"


def add_study(storage, name, drop=()):
    """A second study over the same data: the first's copy under another name, without some protocols."""
    shutil.copytree(storage / "studies" / NAME, storage / "studies" / name)
    edit(
        study_file(storage, name),
        lambda value: (
            value["study"].update(name=name),
            [value["study"]["protocols"].pop(protocol) for protocol in drop],
        ),
    )


def usage_of(verb, storage):
    status, out, _ = verb("storage", "usage", "--storage", storage, "--json")
    assert status == 0
    return json.loads(out)


def a_protocol(storage):
    """A candidate with runs of its own."""
    protocols = json.loads(study_file(storage).read_text())["study"]["protocols"]
    return next(name for name, spec in protocols.items() if spec["kind"] == "lr-ladder")


def without(storage, protocol):
    edit(study_file(storage), lambda value: value["study"]["protocols"].pop(protocol))


def test_what_two_studies_share_is_counted_once_and_shown_as_shared(storage, verb):
    alone = usage_of(verb, storage)
    assert alone["shared"]["bytes"] == 0
    assert alone["studies"][0]["num_runs"] == alone["kinds"]["runs"]["count"] > 0
    add_study(storage, "other", drop=[a_protocol(storage)])
    both = usage_of(verb, storage)
    rows = {row["name"]: row for row in both["studies"]}
    assert rows["other"]["num_runs"] == 0
    assert rows[NAME]["num_runs"] + both["shared"]["num_runs"] == both["kinds"]["runs"]["count"]
    assert both["shared"]["num_runs"] > 0
    assert rows[NAME]["num_runs"] > 0
    total = sum(row["bytes"] for row in both["studies"]) + both["shared"]["bytes"] + both["unused"]["bytes"]
    assert total == sum(kind["bytes"] for kind in both["kinds"].values())
    status, out, _ = verb("storage", "usage", "--storage", storage)
    assert status == 0
    assert "(shared by several)" in out
    assert "an earlier edit of its file" in out


def test_prune_removes_what_no_study_uses_and_the_comparison_stays_digit_for_digit(storage, verb):
    without(storage, a_protocol(storage))
    _, before, _ = verb("compare", NAME, "--storage", storage, "--json")
    view, validation = make_shards(storage)
    (storage / "built").mkdir(exist_ok=True)
    (storage / "built" / f"{'a' * 32}.json").write_text(json.dumps({"digest": view}))
    run = next((storage / "runs").iterdir())
    (run / "result.json.bad-0").write_text("torn")
    half = storage / "shards" / f".writing-00000000-1-{'0' * 32}"
    half.mkdir()
    (half / "tokens.bin").write_text("half")
    used = usage_of(verb, storage)
    assert used["unused"]["num_runs"] > 0
    assert used["unused"]["num_shards"] == 3
    assert used["unused"]["num_left-over"] == 2
    status, out, _ = verb("storage", "prune", "--storage", storage, "--yes")
    assert status == 0
    assert f"runs that no study uses: {used['unused']['num_runs']}" in out
    assert "removed" in out
    after = usage_of(verb, storage)
    assert after["unused"] == {"num_runs": 0, "num_shards": 0, "num_left-over": 0, "bytes": 0}
    assert after["kinds"]["runs"]["count"] == used["kinds"]["runs"]["count"] - used["unused"]["num_runs"]
    assert not any((storage / "shards" / digest).exists() for digest in (view, validation))
    assert list((storage / "built").iterdir()) == []
    assert verb("compare", NAME, "--storage", storage, "--json")[1] == before
    assert verb("storage", "verify", "--storage", storage)[0] == 0
    assert "every item is used by a study" in verb("storage", "prune", "--storage", storage, "--yes")[1]


def test_what_one_of_two_studies_wants_stays(storage, verb):
    add_study(storage, "other")
    without(storage, a_protocol(storage))
    before = contents(storage)
    assert verb("storage", "prune", "--storage", storage, "--yes")[0] == 0
    assert contents(storage) == before


def test_token_shards_that_a_used_view_reads_stay(tiny_storage, tmp_path, verb):
    copy = shutil.copytree(tiny_storage, tmp_path / "copy")
    before = contents(copy)
    status, out, _ = verb("storage", "prune", "--storage", copy, "--yes")
    assert (status, "every item is used" in out) == (0, True)
    assert contents(copy) == before


def test_without_a_terminal_and_without_yes_prune_lists_refuses_and_removes_nothing(storage, cli, verb):
    without(storage, a_protocol(storage))
    before = contents(storage)
    done = cli("storage", "prune", "--storage", storage)
    assert done.returncode == 2
    assert "runs that no study uses" in done.stdout
    assert "Give --yes" in done.stderr
    assert contents(storage) == before
    assert verb("storage", "usage", "--storage", storage, "--yes")[0] == 2


def test_an_answer_at_the_terminal_decides(storage, verb, monkeypatch):
    without(storage, a_protocol(storage))
    before = contents(storage)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, is_removed in (("", False), ("n", False), ("y", True)):
        monkeypatch.setattr("sys.stdin.readline", lambda answer=answer: f"{answer}\n", raising=False)
        assert verb("storage", "prune", "--storage", storage)[0] == 0
        assert (contents(storage) != before) == is_removed


def test_prune_refuses_while_a_driver_holds_any_study(storage, cli):
    without(storage, a_protocol(storage))
    add_study(storage, "other", drop=[])
    before = contents(storage)
    with hold_study(storage / "studies" / "other", wait=False, say=print):
        done = cli("storage", "prune", "--storage", storage, "--yes")
    assert done.returncode == 5
    assert contents(storage) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value["study"].update(format="raystudy-study/2"),
        lambda value: value.pop("inputs"),
        lambda value: value["inputs"]["shards"].popitem(),
        lambda value: value["study"].update(a_new_section={}),
    ],
)
def test_prune_refuses_where_it_cannot_know_what_a_study_uses(storage, verb, damage):
    without(storage, a_protocol(storage))
    add_study(storage, "other")
    edit(study_file(storage, "other"), damage)
    before = contents(storage)
    status, _, told = verb("storage", "prune", "--storage", storage, "--yes")
    assert status == 3
    assert "nothing was removed, since\n  other: what it uses cannot be known" in told
    assert contents(storage) == before
    assert usage_of(verb, storage)["studies"][0]["problem"].startswith("what it uses cannot be known")


def test_a_study_folder_without_its_resolved_copy_stops_prune_but_an_empty_one_does_not(storage, verb):
    (storage / "studies" / "only-locked").mkdir()
    assert verb("storage", "prune", "--storage", storage, "--yes")[0] == 0
    (storage / "studies" / "only-locked" / "study.yaml").write_text("name: x")
    assert verb("storage", "prune", "--storage", storage, "--yes")[0] == 3


def test_a_torn_result_does_not_make_the_runs_that_follow_from_it_unused(storage, verb):
    """Which runs a learning-rate rule wants is known from the sweep it rests on; without that all runs must stay."""
    for folder in (storage / "runs").iterdir():
        (folder / "result.json").write_text("{")
        before = contents(storage / "runs")
        break
    status, out, _ = verb("storage", "prune", "--storage", storage, "--yes")
    assert status == 0
    assert "every run on its data counts as used" in out
    assert contents(storage / "runs") == before
    for folder in (storage / "runs").iterdir():
        (folder / "result.json").unlink()
    assert usage_of(verb, storage)["unused"]["num_runs"] == 0


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def swap_results(storage):
    one, two = sorted((storage / "runs").iterdir())[:2]
    texts = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    for run, text in zip((two, one), texts, strict=True):
        (run / "result.json").write_text(json.dumps({**text, "run_id": run.name}))


def change_sum(storage):
    edit(first(storage, "runs/*/eval/*.json"), lambda value: value["loss_sum"].__setitem__(0, 1.0))


def rename_shards(storage):
    folder = first(storage, "shards/*")
    folder.rename(folder.with_name("0" * 32))


DAMAGE = {
    "a flipped byte in a shard": (lambda s: flip(first(s, "shards/*/tokens.bin")), "has SHA-256"),
    "a shard without its manifest": (lambda s: first(s, "shards/*/manifest.json").unlink(), "manifest.json is missing"),
    "shards under another name": (rename_shards, "must hold the shards of its name"),
    "a torn pointer": (lambda s: first(s, "built/*.json").write_text("{"), "torn or foreign"),
    "two results swapped": (swap_results, "must hold the spec of run"),
    "a torn result": (lambda s: first(s, "runs/*/result.json").write_text('{"format'), "torn or foreign"),
    "a foreign spec": (lambda s: first(s, "runs/*/spec.json").write_text("{}"), "must hold a run's spec"),
    "an evaluation's sum": (change_sum, "its sums give a loss of"),
    "a misnamed evaluation": (
        lambda s: first(s, "runs/*/eval/*.json").rename(first(s, "runs/*/eval") / "x.json"),
        "its name is not that of its validation set, step and read-out",
    ),
    "a torn curve": (lambda s: first(s, "runs/*/curve.jsonl").write_text('{"step": 1}\n{"st'), "torn or foreign"),
    "cut weights": (lambda s: (p := first(s, "runs/*/weights-*")).write_bytes(p.read_bytes()[:-1]), "do not end"),
    "weights with a wild header": (
        lambda s: first(s, "runs/*/weights-*").write_bytes(struct.pack("<Q", 2**60)),
        "its header is longer than the file",
    ),
    "a torn comparison": (lambda s: first(s, "studies/*/comparison.json").write_text("{}"), "must be a comparison"),
    "a damaged study": (lambda s: first(s, "studies/*/study.json").write_text("{}"), "must be a resolved study"),
    "a torn lock": (lambda s: (s / "studies" / "tiny" / "lock.json").write_text("{}"), "must be a lock"),
}


@pytest.fixture(scope="module")
def compared(tiny_storage, tmp_path_factory, cli):
    """A copy of the tiny study's storage with its comparison kept."""
    copy = shutil.copytree(tiny_storage, tmp_path_factory.mktemp("compared") / "storage")
    assert cli("compare", "tiny", "--storage", copy).returncode == 0
    return copy


@pytest.mark.parametrize("name", list(DAMAGE))
def test_verify_names_every_kind_of_damage_in_one_line_and_changes_nothing(compared, tmp_path, verb, name):
    copy = shutil.copytree(compared, tmp_path / "copy")
    damage, told = DAMAGE[name]
    damage(copy)
    before = contents(copy)
    status, out, _ = verb("storage", "verify", "--storage", copy)
    *lines, last = out.splitlines()
    assert status == 3
    assert any(told in line for line in lines), out
    assert all(str(copy) in line for line in lines)
    assert len(lines) <= 2
    assert f"{len(lines)} problem" in last
    assert contents(copy) == before


def test_verify_finds_nothing_wrong_with_a_whole_storage(compared, storage, verb):
    for whole in (compared, storage):
        status, out, _ = verb("storage", "verify", "--storage", whole, "--json")
        assert (status, json.loads(out)["problems"]) == (0, [])
        assert json.loads(out)["checked"]["results"] > 50


def test_a_storage_that_is_not_there_is_told(tmp_path, verb):
    for action in ("usage", "prune", "verify"):
        status, _, told = verb("storage", action, "--storage", tmp_path / "nothing")
        assert (status, "is not a folder" in told) == (3, True)
    assert FEATURES.exists()
