"""The reader of score tables: three formats give the same rows; what is wrong is told with file and line."""

import numpy as np
import pandas as pd
import pytest

from raystudy.artifacts.score_table import ScoreRow, read_score_table
from raystudy.errors import DataError

ROWS = [ScoreRow("../a, b", 1.5, "x", "0", "loss"), ScoreRow("数\n据", -2e-3, "y", "s 1", "loss")]
FRAME = pd.DataFrame([vars(row) for row in ROWS])


def test_csv_tsv_and_parquet_give_the_same_rows(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    FRAME.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    FRAME.to_csv(tmp_path / "tabs.txt", index=False, sep="\t", encoding="utf-8-sig")
    FRAME.to_parquet(tmp_path / "t.parquet")
    FRAME.to_parquet(tmp_path / "no-suffix", index=False)
    for name in ("t.csv", "t.tsv", "tabs.txt", "t.parquet", "no-suffix"):
        assert read_score_table(tmp_path / name) == ROWS, name


def test_columns_may_have_other_names_and_others_are_left_alone(tmp_path):
    (tmp_path / "t.csv").write_text("mix,recipe,loss,note\n7,no,1e-3,x\n")
    rows = read_score_table(tmp_path / "t.csv", {"recipe": "mix", "score": "loss"})
    assert rows == [ScoreRow("7", 1e-3, None, None, None)]


def test_names_are_text_as_written_and_numbers_in_parquet_as_python_writes_them(tmp_path):
    (tmp_path / "t.csv").write_text("recipe,score\n007,1\nnan,2\nNone,3\n")
    assert [row.recipe for row in read_score_table(tmp_path / "t.csv")] == ["007", "nan", "None"]
    pd.DataFrame({"recipe": [7, 8], "score": np.array([1, 2], dtype="float32")}).to_parquet(tmp_path / "t.parquet")
    assert [row.recipe for row in read_score_table(tmp_path / "t.parquet")] == ["7", "8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv must be a CSV, TSV or Parquet file, but is empty"),
        ("\n \n", "is empty"),
        ("recipe,score\n", "must have rows, but has a header only"),
        ("recpie,score\na,1\n", "must have a column 'recipe' for the recipe, but has 'recpie', 'score'. Did you mean "
         "'recpie'? Name the column of the recipe with --column recipe=COLUMN"),
        ("recipe,score,score\na,1,2\n", "'score' occurs 2 times"),
        ("recipe,score\na,1\n\nb,good\n", "t.csv, line 4: every score must be a finite number, but got 'good'"),
        ("recipe,score\n\"a\nb\",1\nc,x\n", "t.csv, line 4: every score"),
        ("recipe,score\na,nan\n", "line 2: every score must be a finite number, but got 'nan'"),
        ("recipe,score\na,-inf\n", "line 2: every score must be a finite number, but got '-inf'"),
        ("recipe,score\na,\n", "line 2: every score must be a finite number, but the cell is empty. A recipe without"),
        ("recipe,score\na,1_0\n", "got '1_0'"),
        ("recipe,score\n,1\n", "line 2: every row must name its recipe"),
        ("recipe,score\na,1,2\n", "line 2: must have 2 cells as the header has, but has 3"),
        ("recipe,score\na,1\nb,2\na,3\n", "t.csv, line 4: each recipe must occur once, but recipe 'a' stands in line 2 "
         "already. Is there a column for the seed or metric?"),
        ("recipe,seed,score\na,0,1\na,0,1\n", "each recipe, seed must occur once, but recipe 'a', seed '0'"),
        ('recipe,score\n"a,1\n', "line 2: must be a row of a table"),
        ("recipe,score\na\0,1\n", "holds binary data"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_told_with_file_and_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_score_table(tmp_path / "t.csv")
    assert message in str(caught.value)


def test_what_is_no_table_is_told(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"recipe,score\n\xff\xfe,1\n")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "text.parquet").write_text("recipe,score\na,1\n")
    FRAME.assign(score=["1", "?"]).to_parquet(tmp_path / "words.parquet")
    FRAME.assign(score=[1.0, np.nan]).to_parquet(tmp_path / "null.parquet")
    for name, message in (
        ("bytes.csv", "byte 13 is no UTF-8 text"),
        ("torn.parquet", "must be a Parquet file"),
        ("text.parquet", "must be a Parquet file"),
        ("words.parquet", "row 2: every score must be a finite number, but got '?'"),
        ("null.parquet", "row 2: every score must be a finite number, but the cell is empty"),
        ("none.csv", "No such file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(DataError) as caught:
            read_score_table(tmp_path / name)
        assert message in str(caught.value), name


def test_scores_of_several_tokenizers_are_compared_in_bits_per_byte_only(tmp_path):
    rows = "recipe,protocol,score,metric,tokenizer\na,x,1,{0},bpe\nb,x,2,{0},{1}\na,y,1,{0},other\nb,y,2,{0},other\n"
    path = tmp_path / "t.csv"
    for metric, tokenizer in (("loss", "bpe"), ("bits-per-byte", "words"), ("bits-per-byte/code", "words")):
        path.write_text(rows.format(metric, tokenizer))
        assert [row.tokenizer for row in read_score_table(path)] == ["bpe", tokenizer, "other", "other"]
    path.write_text(rows.format("loss", "words"))
    with pytest.raises(DataError, match=r"must be bits per byte to be compared.* 'loss' 'a' has tokenizer 'bpe'"):
        read_score_table(path)
    path.write_text("recipe,score,tokenizer\na,1,bpe\nb,1,\n")
    with pytest.raises(DataError, match="none named"):
        read_score_table(path)
