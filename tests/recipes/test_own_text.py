"""Own files as sources: read, held out, refused with the place of the mistake."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from raystudy.artifacts.shards import open_tokens, open_view, shard_folder
from raystudy.errors import DataError
from raystudy.recipes.build import build_recipe, build_validation, find_recipe
from raystudy.recipes.disjoint import check_disjoint
from raystudy.recipes.documents import cut_into_documents
from raystudy.specs.recipe import Source, TextRecipe, TextSource, ValidationSet


def _source(*files: Path | str, **settings: Any) -> TextSource:
    return TextSource(kind="text", files=tuple(map(str, files)), **settings)


def _recipe(*sources: TextSource, name: str = "own", **settings: Any) -> TextRecipe:
    named: dict[str, Source] = {f"s{number}": source for number, source in enumerate(sources)}
    return TextRecipe(kind="text", name=name, dimension="corpus", sources=named, **settings)


def _jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


TEXTS = [f"document number {number} holds some words" for number in range(200)]


def test_text_and_jsonl_files_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\r\n\r\nfile")
    (tmp_path / "a.txt").write_text("first file")
    lines = _jsonl(tmp_path / "c.jsonl", ["one", "two\n\nthree", "  "], field="body")
    recipe = _recipe(_source(tmp_path / "*.txt"), _source(lines, field="body"))
    view = open_view(tmp_path, build_recipe(recipe, "embedded", tmp_path))
    assert [source.num_documents for source in view.sources] == [2, 2]
    assert [source["bytes"] for source in view.manifest["sources"]] == [len("first file" + "second\n\nfile"), 13]


def test_a_jsonl_file_of_another_suffix_is_read_on_request(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "lines.data", TEXTS)
    digests = [build_recipe(_recipe(_source(path, format=form)), "embedded", tmp_path) for form in ("jsonl", "text")]
    assert [open_view(tmp_path, digest).sources[0].num_documents for digest in digests] == [200, 3]


def test_a_changed_file_is_built_again_and_a_moved_one_is_not(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", TEXTS)
    first = build_recipe(_recipe(_source(path)), "embedded", tmp_path)
    moved = path.rename(tmp_path / "moved.jsonl")
    assert find_recipe(_recipe(_source(moved)), "embedded", tmp_path) == first
    _jsonl(moved, TEXTS[1:])
    assert find_recipe(_recipe(_source(moved)), "embedded", tmp_path) is None
    assert build_recipe(_recipe(_source(moved)), "embedded", tmp_path) != first


def test_shards_that_were_deleted_are_built_again(tmp_path: Path) -> None:
    recipe = _recipe(_source(_jsonl(tmp_path / "a.jsonl", TEXTS)))
    digest = build_recipe(recipe, "embedded", tmp_path)
    tokens = open_view(tmp_path, digest).manifest["sources"][0]["parts"][0]["shard"]
    for folder in (tokens, digest):
        shutil.rmtree(shard_folder(tmp_path, folder))
        assert find_recipe(recipe, "embedded", tmp_path) is None
        assert build_recipe(recipe, "embedded", tmp_path) == digest
        open_view(tmp_path, digest)


def test_every_missing_file_is_listed_at_once(tmp_path: Path) -> None:
    sources = (_source(tmp_path / "no.txt", tmp_path / "*.none"), _source(tmp_path / "neither.jsonl", tmp_path))
    with pytest.raises(DataError) as caught:
        build_recipe(_recipe(*sources), "embedded", tmp_path)
    for part in (
        "no.txt (there is no such file)",
        "*.none (the pattern matches no file)",
        "neither.jsonl",
        "is no file",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt must hold text, but is empty"),
        ("a.txt", b" \n\n \n", r"a\.txt must hold text, but is empty"),
        ("a.txt", b"caf\xe9", r"a\.txt must be UTF-8 text, but byte 3"),
        ("a.jsonl", b"", r"a\.jsonl must hold documents, but has none"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl:2: the line must be JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n{"body": "y"}\n', r"a\.jsonl:3: .*'text', but got the keys 'body'"),
        ("a.jsonl", b'{"text": 1}\n', r"a\.jsonl:1: .*`field:`"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: .*but got list"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: .*valid Unicode"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        build_recipe(_recipe(_source(tmp_path / name)), "embedded", tmp_path)


def test_a_step_that_empties_a_source_says_so(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", TEXTS)
    twice = _recipe(_source(path), _source(path), steps=({"step": "deduplicate", "level": "exact"},))
    with pytest.raises(DataError, match="source 's1' of recipe 'own' keeps no document: 0 documents"):
        build_recipe(twice, "embedded", tmp_path)


def test_the_held_out_share_and_the_rest_make_up_the_files(tmp_path: Path) -> None:
    source = _source(_jsonl(tmp_path / "a.jsonl", TEXTS), holdout=0.25)
    view = open_view(tmp_path, build_recipe(_recipe(source), "embedded", tmp_path))
    validation = ValidationSet(source=source)
    held = open_tokens(tmp_path, build_validation(validation, "embedded", tmp_path))
    assert 25 < held.num_documents < 75
    assert held.num_documents + view.sources[0].num_documents == 200
    check_disjoint([_recipe(source)], {"v": validation})


def test_separate_files_need_no_holdout(tmp_path: Path) -> None:
    train, other = _jsonl(tmp_path / "a.jsonl", TEXTS[:100]), _jsonl(tmp_path / "b.jsonl", TEXTS[100:])
    validation = ValidationSet(source=_source(other))
    check_disjoint([_recipe(_source(train))], {"v": validation})
    assert open_tokens(tmp_path, build_validation(validation, "embedded", tmp_path)).num_documents == 100


@pytest.mark.parametrize(("train", "held"), [(0.0, 0.0), (0.0, 0.25), (0.25, 0.0), (0.1, 0.5)])
def test_documents_on_both_sides_are_refused(tmp_path: Path, train: float, held: float) -> None:
    path = _jsonl(tmp_path / "a.jsonl", TEXTS)
    validation = ValidationSet(source=_source(path, holdout=held))
    with pytest.raises(DataError, match=r"validation 'v' and source 's0' of recipe 'own' share \d+ of \d+ documents"):
        check_disjoint([_recipe(_source(path, holdout=train))], {"v": validation})


def test_a_holdout_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    source = _source(_jsonl(tmp_path / "a.jsonl", ["only one"]), holdout=1e-9)
    with pytest.raises(DataError, match="at least one document, but of 0 held-out"):
        build_validation(ValidationSet(source=source), "embedded", tmp_path)


def test_text_is_cut_at_blank_lines_then_lines_then_anywhere() -> None:
    assert cut_into_documents("aa\n\nbb\n \n\ncc", 6) == ["aa\n\nbb", "cc"]
    assert cut_into_documents("aaaa\nbbbb\ncc", 7) == ["aaaa", "bbbb\ncc"]
    assert cut_into_documents("abcdefgh", 3) == ["abc", "def", "gh"]
    assert cut_into_documents("aaaa\n\nb", 4, min_characters=2) == ["aaaa"]
    assert cut_into_documents(" \n\n") == []
