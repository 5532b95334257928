"""`raystudy plan` says which sources will be read more than once, before anything runs."""

import json

from tests.conftest import TINY

LONG = ("--set", "training.steps=100000", "--set", "models.target.training.steps=300000")


def repeated(cli, storage, path, *changes):
    done = cli("plan", TINY, "--storage", storage, "--json", path, *changes)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())["repeated"]


def test_a_plan_tells_how_often_sources_will_be_read_and_match_epochs_makes_models_alike(tiny_storage, cli, tmp_path):
    text, rows = repeated(cli, tiny_storage, tmp_path / "plan.json")
    assert rows == []
    assert "too few tokens" not in text
    text, rows = repeated(cli, tiny_storage, tmp_path / "plan.json", *LONG)
    assert "`match_epochs: target` in `training:`" in text
    for row in rows:
        assert f"recipe {row['recipe']!r} holds too few tokens: source {row['source']!r} is read" in text
        assert row["epochs"]["target"] > 2.9 * row["epochs"]["proxy"] > 0
    matched = ("--set", "training.match_epochs=target")
    text, alike = repeated(cli, tiny_storage, tmp_path / "plan.json", *LONG, *matched)
    assert len(alike) == len(rows) > 0
    assert all(abs(row["epochs"]["target"] / row["epochs"]["proxy"] - 1) < 0.01 for row in alike)
    assert "match_epochs" not in text
