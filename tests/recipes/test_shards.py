"""Shards on storage: windows, damage, atomic writing."""

import json
from pathlib import Path

import numpy as np
import pytest

from raystudy.artifacts import sealed
from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import IntArray, Selected, TokenArray, ViewSource, open_tokens, open_view, shard_folder
from raystudy.errors import DamagedError, DataError

VOCABULARY = 300


@pytest.fixture(autouse=True)
def _every_test_verifies_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_verified", set())


def _documents(seed: int, count: int) -> list[TokenArray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, VOCABULARY, generator.integers(1, 40)).astype(np.uint16) for _ in range(count)]


def _write(root: Path, seed: int, count: int = 30) -> str:
    documents = _documents(seed, count)
    return write_tokens(root, documents, [2 * len(document) for document in documents], VOCABULARY, 0)


def _view(root: Path, kept: tuple[IntArray, ...], weights: tuple[float, float] = (1.0, 3.0)) -> str:
    shards = [open_tokens(root, _write(root, seed)) for seed in range(3)]
    both = tuple(Selected(shard, own) for shard, own in zip(shards[:2], kept[:2], strict=True))
    return write_view(
        root, "r", [SourceDraft("a", weights[0], both), SourceDraft("b", weights[1], (Selected(shards[2], kept[2]),))]
    )


EVERYTHING = tuple(np.arange(30) for _ in range(3))
SOME = (np.array([0, 3, 4, 29]), np.array([7]), np.arange(1, 30, 2))


@pytest.mark.parametrize("kept", [EVERYTHING, SOME], ids=["everything", "some"])
@pytest.mark.parametrize("context", [1, 7, 16])
def test_windows_equal_the_naive_concatenation(tmp_path: Path, kept: tuple[IntArray, ...], context: int) -> None:
    view = open_view(tmp_path, _view(tmp_path, kept))
    documents = [[[0, *document.tolist()] for document in _documents(seed, 30)] for seed in range(3)]
    for source, seeds in zip(view.sources, [(0, 1), (2,)], strict=True):
        naive = [token for seed in seeds for index in kept[seed] for token in documents[seed][index]]
        count = source.windows(context)
        assert count == (len(naive) - 1) // context
        order = np.random.default_rng(0).permutation(count)
        windows = source.read_windows(order, context)
        assert windows.dtype == np.uint16
        assert windows.tolist() == [naive[i * context : i * context + context + 1] for i in order.tolist()]
        assert source.num_tokens == len(naive)
        assert source.unigram_counts.tolist() == np.bincount(naive, minlength=VOCABULARY).tolist()
    assert [source.weight for source in view.sources] == [0.25, 0.75]


def test_the_manifest_counts_copies_once(tmp_path: Path) -> None:
    document = np.array([5, 6], dtype=np.uint16)
    shard = open_tokens(tmp_path, write_tokens(tmp_path, [document, document], [4, 4], VOCABULARY, 0))
    view = open_view(tmp_path, write_view(tmp_path, "r", [SourceDraft("a", 1, (Selected(shard, np.arange(2)),))], 12))
    figures = {key: view.manifest[key] for key in ("documents", "tokens", "unique_tokens", "bytes", "recipe")}
    assert figures == {"documents": 2, "tokens": 6, "unique_tokens": 3, "bytes": 8, "recipe": "r"}
    assert view.manifest["sources"][0]["epochs"] == 2.0


def test_a_source_shorter_than_a_window_says_so(tmp_path: Path) -> None:
    view = open_view(tmp_path, _view(tmp_path, (np.array([0]), np.array([0]), np.array([0]))))
    source: ViewSource = view.sources[1]
    with pytest.raises(DataError, match=rf"window of 65 tokens, but 'b' holds {source.num_tokens} tokens"):
        source.windows(64)


def test_kept_documents_and_weights_change_the_digest_and_names_do_not(tmp_path: Path) -> None:
    digest = _view(tmp_path, EVERYTHING)
    assert _view(tmp_path, EVERYTHING, (2.0, 6.0)) == digest
    assert _view(tmp_path, EVERYTHING, (1.0, 2.0)) != digest
    assert _view(tmp_path, SOME) != digest


@pytest.mark.parametrize("name", ["tokens.bin", "documents.npy", "document_bytes.npy"])
def test_a_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    digest = _write(tmp_path, 0)
    path = shard_folder(tmp_path, digest) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{digest} must hold shards.*{name} has SHA-256 .* Run the study again"):
        open_tokens(tmp_path, digest)


def test_a_flipped_byte_in_a_shard_is_found_through_the_view(tmp_path: Path) -> None:
    digest = _view(tmp_path, SOME)
    (tmp_path / "shards" / _write(tmp_path, 2) / "tokens.bin").write_bytes(b"\0\0")
    sealed._verified.clear()
    with pytest.raises(DataError, match=r"tokens\.bin"):
        open_view(tmp_path, digest)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"kind": "tokens"}'])
def test_a_missing_or_torn_manifest_is_found(tmp_path: Path, content: bytes | None) -> None:
    digest = _write(tmp_path, 0)
    manifest = shard_folder(tmp_path, digest) / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json .* Run the study again"):
        open_tokens(tmp_path, digest)


def test_a_view_is_not_a_token_shard_nor_the_other_way_round(tmp_path: Path) -> None:
    digest = _view(tmp_path, SOME)
    with pytest.raises(DataError, match="holds 'view' instead of 'tokens'"):
        open_tokens(tmp_path, digest)
    with pytest.raises(DataError, match="holds 'tokens' instead of 'view'"):
        open_view(tmp_path, _write(tmp_path, 0))


def test_the_first_writer_wins_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "shards" / "x"
    sealed.write_sealed(folder, {"a": b"first"}, {})
    (folder / "manifest.json").rename(folder / "hidden")  # as a second writer sees it who looked too early
    with pytest.raises(DamagedError, match=r"manifest\.json is missing"):
        sealed.write_sealed(folder, {"a": b"second"}, {})
    (folder / "hidden").rename(folder / "manifest.json")
    sealed.write_sealed(folder, {"a": b"second"}, {})
    assert (folder / "a").read_bytes() == b"first"
    assert [path.name for path in folder.parent.iterdir()] == ["x"]


def test_tokens_are_little_endian_and_the_manifest_is_json(tmp_path: Path) -> None:
    document = np.array([258], dtype=np.uint16)
    folder = shard_folder(tmp_path, write_tokens(tmp_path, [document], [1], VOCABULARY, 0))
    assert (folder / "tokens.bin").read_bytes() == b"\x00\x00\x02\x01"
    assert json.loads((folder / "manifest.json").read_text())["tokens"] == 2
