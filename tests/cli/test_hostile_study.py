"""A study file from somebody who means harm: what is legal stays words, and everything else is one message.

What a study file may do by design (name programs with `engine: command`) is said in SECURITY.md.
"""

import json
import os
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import contents
from tests.planted import write_study

# Legal in a name: no slash, no two dots, no control characters.
WORDS = (
    """; touch planted $(touch planted) `touch planted` | 'q' "d" & <script>alert(1)<img src=x onerror=alert(2)>"""
    """ {out} {spec} %s ${HOME} ~root *? --help =1+1 数据 وصفة 𝐀́"""
)


def hostile_study(**changes: Any) -> dict[str, Any]:
    """A study of random-feature models in which every name is hostile."""

    def named(part: str) -> str:
        return part + WORDS

    study = {
        "format": "raystudy-study/1",
        "name": WORDS,
        "recipes": [
            {
                "name": named(f"r{place}"),
                "kind": "synthetic",
                "dimension": "corpus",
                "weights": {named("d0"): 1 + place, named("d1"): 3},
            }
            for place in range(3)
        ],
        "synthetic": {
            "inputs": 8,
            "domains": {named("d0"): {"exponent": 1.2}, named("d1"): {"exponent": 1.0, "teacher_shift": 0.5}},
        },
        "validation": {named("v"): {"source": {"kind": "synthetic", "domain": named("d0")}}},
        "models": {
            named("proxy"): {"kind": "random-features", "features": 4, "training": {"steps": 5}},
            named("target"): {"kind": "random-features", "features": 6, "training": {"steps": 9}},
        },
        "protocols": {
            named("truth"): {"kind": "tuned", "model": named("target"), "space": {"lr": {"grid": [0.01, 0.1]}}},
            named("low"): {"kind": "reduced-lr", "model": named("proxy"), "lr": 0.01, "seeds": [0, 1]},
            named("high"): {"kind": "standard-lr", "model": named("proxy"), "lr": 0.05, "seeds": [0, 1]},
        },
        "truth": named("truth"),
        "comparison": {"contrast": [named("low"), named("high")], "resamples": 100},
    }
    return {**study, **changes}


class Started:
    """What was started while a test ran: (arguments, whether a shell was to read them)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, bool]] = []
        start = subprocess.Popen.__init__

        def noted(process: Any, args: Any, *others: Any, **named: Any) -> None:
            self.calls.append((args, bool(named.get("shell"))))
            start(process, args, *others, **named)

        def refused(command: str) -> None:
            raise AssertionError(f"a shell was to read {command!r}")

        monkeypatch.setattr(subprocess.Popen, "__init__", noted)
        monkeypatch.setattr(os, "system", refused)
        monkeypatch.setattr(os, "popen", refused)

    def by_a_shell(self) -> list[Any]:
        return [args for args, shell in self.calls if shell or isinstance(args, str) or "sh" in Path(str(args[0])).name]


class Elements(HTMLParser):
    """The elements of a page, and attributes that would run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.running: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.running += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.timeout(60)
def test_hostile_names_everywhere_are_words_from_check_to_export(tmp_path, monkeypatch, verb):
    work, storage = tmp_path / "work", tmp_path / "st; touch planted $(touch planted)"
    study = write_study(work, json.dumps(hostile_study(), ensure_ascii=False))
    monkeypatch.chdir(work)
    started, at = Started(monkeypatch), ("--storage", storage)
    for words in (
        ("check", study),
        ("plan", study, *at),
        ("run", study, "--local", "--workers", "0", *at),
        ("run", study, "--local", "--workers", "2", *at),  # nothing is left to do
        ("status", study, *at),
        ("compare", study, "--json", work / "comparison.json", *at),
        ("report", study, *at),
        ("export", study, "--out", work / "out.parquet", *at),
        ("import", work / "out.parquet", "--storage", tmp_path / "other"),
        ("storage", "usage", *at),
    ):
        status, _, told = verb(*words)
        assert status == 0, (words[0], told)
    assert started.by_a_shell() == []
    assert {path.name for path in work.iterdir()} == {"study.yaml", "comparison.json", "out.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == {"work", storage.name, "other"}
    assert not [path for path in tmp_path.rglob("*") if path.name == "planted" or path.is_symlink()]
    (page,) = storage.glob("studies/*/report.html")
    assert page.parent.name.replace("-", "").replace(".", "").isalnum(), "a study's folder is made of plain characters"
    shown = Elements(page.read_text())
    assert not {"script", "img", "iframe", "object"} & shown.names
    assert shown.running == []
    assert any("<script>alert(1)" in text for text in shown.text), "the name is shown, as text"
    kept = json.loads((work / "comparison.json").read_text())
    assert kept["study"] == WORDS


ILLEGAL = {
    "a path upwards": ("../../outside", "a name must not hold '/', '\\' or '..'"),
    "an absolute path": ("/tmp/outside", "a name must not hold '/', '\\' or '..'"),
    "a path of Windows": ("C:\\outside", "a name must not hold '/', '\\' or '..'"),
    "a line break": ("a\nb", "control characters or line breaks"),
    "a null byte": ("a\x00b", "control characters or line breaks"),
    "an escape": ("a\x1b[2Jb", "control characters or line breaks"),
    "a line separator": ("a\u2028b", "control characters or line breaks"),
    "a turn of direction": ("a\u202eb", "turn the direction of text"),
    "half of a surrogate pair": ("a\ud800b", "text must be Unicode"),
    "very long": ("x" * 900, "a name has at most 200 characters"),
    "empty": (" ", "a name must not be empty"),
}


def replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {replaced(key, old, new): replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, old, new) for item in value]
    return new if value == old else value


VERBS = (("check",), ("plan", "--storage", "STORAGE"), ("run", "--local", "--storage", "STORAGE"))


def refused(verb: Any, folder: Path, text: str, expected: str, verbs: Any = VERBS) -> None:
    """All `verbs` end with status 2 and one message; nothing is written."""
    study, storage = write_study(folder, text), folder / "storage"
    before = contents(folder)
    for words in verbs:
        status, shown, told = verb(words[0], study, *(storage if word == "STORAGE" else word for word in words[1:]))
        assert (status, shown) == (2, ""), told
        assert told.startswith("raystudy: ")
        assert "Traceback" not in told
        assert "a defect" not in told
        assert expected in told
        assert len(told) < 20_000
    assert contents(folder) == before
    assert not storage.exists()


@pytest.mark.parametrize("part", ["", "r0", "d0", "v", "proxy", "low"], ids=lambda part: part or "study")
def test_a_name_that_could_act_as_a_path_or_break_a_line_is_refused_wherever_it_stands(part, tmp_path, verb):
    for kind, (name, expected) in ILLEGAL.items():
        text = json.dumps(replaced(hostile_study(), part + WORDS, name))
        refused(verb, tmp_path / kind, text, expected, VERBS if kind == "a path upwards" else VERBS[:1])


RIGHT = json.dumps(hostile_study(), ensure_ascii=False)
QUOTED = json.dumps(WORDS, ensure_ascii=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT.replace(QUOTED, '!!python/object/apply:os.system ["touch planted"]', 1), "tags are not allowed"),
        (RIGHT.replace(QUOTED, "!!python/object:os.system {a: b}", 1), "tags are not allowed"),
        (RIGHT.replace(QUOTED, "!!python/name:os.system x", 1), "tags are not allowed"),
        (RIGHT.replace('"name"', '!!python/name:os.system "name"', 1), "tags are not allowed"),
        ("!!python/object/new:os.system [touch planted]\n", "tags are not allowed"),
        ("a: &a {b: *a}\n", "an alias must not hold itself or explode"),
        ("[" * 400, "not valid YAML"),
        (RIGHT.replace('"inputs": 8', '"inputs": ' + "9" * 5000), "synthetic.inputs"),
        (RIGHT.replace('"inputs": 8', '"inputs": 1e999'), "synthetic.inputs"),
        (RIGHT.replace('"steps": 9', '"steps": .inf'), "training.steps"),
        (RIGHT.replace('"name"', '"catalogues": ["/etc/passwd"], "name"', 1), "/etc/passwd"),
        ("%YAML 9.9\n---\n" + RIGHT, "not valid YAML"),
    ],
    ids=range(12),
)  # fmt: skip
def test_yaml_that_would_make_objects_or_explode_is_refused_in_one_message(text, expected, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    started = Started(monkeypatch)
    refused(verb, tmp_path / "work", text, expected, VERBS[::2])
    assert started.calls == []
    assert not (tmp_path / "planted").exists()
