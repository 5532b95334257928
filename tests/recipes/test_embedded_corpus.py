"""The embedded corpus: manifest, held-out text, tokenizer."""

import hashlib
import importlib.metadata
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from raystudy.errors import DataError
from raystudy.recipes.embedded import make_tokenizer
from raystudy.recipes.embedded.extract import domain_text
from raystudy.recipes.embedded.make_manifest import MAX_SHARED_RUNS
from raystudy.recipes.embedded.manifest import MANIFEST_PATH, load_manifest, read_documents
from raystudy.recipes.overlap import HELD_OUT_WORDS, share_in
from raystudy.recipes.tokenizer import EMBEDDED_PATH, open_tokenizer

DOMAINS = ("prose", "code", "tests", "headers", "stubs", "licences", "tables")


def _altered(tmp_path: Path, change: str) -> Path:
    """A copy of the manifest in which numpy's files or version are others."""
    data = json.loads(MANIFEST_PATH.read_text())
    numpy = data["packages"]["numpy"]
    if change == "version":
        numpy["version"] = "1.0.0"
    elif change == "package":
        data["packages"]["no-such-package"] = numpy
    else:
        numpy["files"] = {path: ["0" * 64, *rest] for path, (_, *rest) in numpy["files"].items()}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_listed_file_is_the_one_installed_and_gives_documents(domain: str) -> None:
    for part in ("train", "validation"):
        documents = read_documents(domain, part)
        assert documents
        assert all(200 <= len(document) <= 4000 for document in documents)


def test_the_manifest_is_small_and_lists_no_file_twice() -> None:
    files = [(file.package, file.path) for file in load_manifest().files]
    assert len(set(files)) == len(files)
    assert MANIFEST_PATH.stat().st_size < 200_000


def test_a_file_with_another_checksum_is_named_with_the_way_out(tmp_path: Path) -> None:
    manifest = load_manifest(_altered(tmp_path, "checksum"))
    version = importlib.metadata.version("numpy")
    message = (
        rf"numpy.*numpy=={version}.*installed: {version}.*pip install --force-reinstall --no-deps numpy=={version}"
    )
    with pytest.raises(DataError, match=message):
        read_documents("stubs", "train", manifest)


def test_another_version_is_named_with_the_way_out(tmp_path: Path) -> None:
    manifest = load_manifest(_altered(tmp_path, "version"))
    message = r"numpy==1\.0\.0 \(installed: \d.*pip install numpy==1\.0\.0$"
    with pytest.raises(DataError, match=message):
        read_documents("tables", "train", manifest)


def test_a_package_that_is_not_installed_is_named_with_the_way_out(tmp_path: Path) -> None:
    manifest = load_manifest(_altered(tmp_path, "package"))
    with pytest.raises(DataError, match=r"no-such-package==\S+ \(installed: none\).*pip install no-such-package=="):
        read_documents("tables", "train", manifest)


def test_validation_text_is_held_out_from_all_training_text() -> None:
    """Written again without the code under test, except for the 13-word runs' hashing."""
    training: set[tuple[str, ...]] = set()
    for domain in DOMAINS:
        for document in read_documents(domain, "train"):
            training.update(_word_runs(document))
    for domain in DOMAINS:
        for document in read_documents(domain, "validation"):
            runs = _word_runs(document)
            assert len(runs & training) < MAX_SHARED_RUNS * max(len(runs), 1), document[:200]


def _word_runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    length = min(HELD_OUT_WORDS, len(words))
    return {tuple(map(sys.intern, words[i : i + length])) for i in range(len(words) - length + 1)}


def test_share_in_counts_runs_that_occur() -> None:
    from raystudy.recipes.overlap import all_runs

    runs = all_runs(["one two three four"], 2)
    assert share_in("two three five", runs, 2) == 0.5
    assert share_in("nothing at all", runs, 2) == 0.0
    assert share_in("...", runs, 2) == 0.0
    assert share_in("one two", all_runs([], 2), 2) == 0.0


def test_docstrings_are_prose_and_the_rest_is_code() -> None:
    source = 'import os\n\n\ndef f():\n    """Say hello.\n\n        More.\n    """\n    return "text"\n'
    assert domain_text("prose", source) == "Say hello.\n\n    More.".replace("    More", "More")
    assert domain_text("code", source) == 'import os\n\n\ndef f():\n    return "text"\n'
    assert domain_text("tests", source) == source


def test_the_shipped_tokenizer_has_1024_tokens_and_begins_with_end_of_text() -> None:
    tokenizer = open_tokenizer("embedded")
    assert (tokenizer.vocabulary_size, tokenizer.end_of_text) == (1024, 0)
    assert tokenizer.digest == hashlib.sha256(EMBEDDED_PATH.read_bytes()).hexdigest()


def test_the_tokenizer_loses_nothing_and_reads_its_special_token_as_text() -> None:
    from tokenizers import Tokenizer

    text = "hé \t\r\n <|endoftext|> 中文 \x00"
    ids = open_tokenizer("embedded").encode([text])[0]
    assert ids.dtype == np.uint16
    assert 0 not in ids.tolist()
    assert Tokenizer.from_file(str(EMBEDDED_PATH)).decode(ids.tolist(), skip_special_tokens=False) == text


def test_the_command_makes_the_shipped_tokenizer_again(tmp_path: Path) -> None:
    output = tmp_path / "tokenizer.json"
    assert make_tokenizer.main(["--output", str(output)]) == 0
    assert output.read_bytes() == EMBEDDED_PATH.read_bytes()


def test_a_tokenizer_without_end_of_text_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="'embedded' or the path"):
        open_tokenizer(str(path))
    path.write_text("{}")
    with pytest.raises(DataError, match=r"must be a tokenizer\.json"):
        open_tokenizer(str(path))
    path.write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": []}))
    with pytest.raises(DataError, match=r"must have the token <\|endoftext\|>"):
        open_tokenizer(str(path))
    path.write_text(json.dumps({"model": {"vocab": {"<|endoftext|>": 0, "a": 70000}}, "added_tokens": []}))
    with pytest.raises(DataError, match="at most 65536 tokens, but has 70001"):
        open_tokenizer(str(path))
