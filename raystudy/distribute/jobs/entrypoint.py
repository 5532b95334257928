"""What a job's shell line says of the study that it runs: for jobs that Ray's own command started.

The line is only read, never run: a word that a shell would fill in is not known here.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

# Of `raystudy run`: those that the next word belongs to.
WITH_VALUE = ("--storage", "--set", "--workers", "--address", "--max-runs", "--max-device-hours", "--log-format")
_ENDS = frozenset("();<>|&")  # of one command in the line
_FILLED_IN = "$`*?"  # by a shell


@dataclass(frozen=True)
class RunLine:
    """The words of `raystudy run` in a line. `file`: STUDY as given; `name`: of `--set name=`, else empty."""

    file: str
    name: str = ""
    storage: str = ""

    @property
    def names(self) -> frozenset[str]:
        """What the study may be asked for by: its name where that is given, its file, and the file's own name."""
        return frozenset({self.name, self.file, PurePosixPath(self.file).stem} - {""})


def read_run(line: str) -> RunLine | None:
    """The first `raystudy run` in a shell line, also within `bash -c '...'`; None where there is none to be read."""
    try:
        words = _words(line)
    except ValueError:  # quotes that do not end
        return None
    for place, word in enumerate(words):
        if word == "run" and place and PurePosixPath(words[place - 1]).name == "raystudy":
            return _read(words[place + 1 :])
        inner = read_run(word) if " " in word and len(word) < len(line) else None
        if inner is not None:
            return inner
    return None


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


def _read(words: list[str]) -> RunLine | None:
    file, name, storage = "", "", ""
    for option, value in _arguments(iter(words)):
        if not option:
            file = file or value
        elif option == "--storage":
            storage = value
        elif option == "--set" and value.startswith("name="):
            name = value.removeprefix("name=")
    known = [("" if any(sign in word for sign in _FILLED_IN) else word) for word in (file, name, storage)]
    return RunLine(*known) if file else None


def _arguments(words: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Each option with its value, and each other word with an empty option, up to the command's end."""
    for word in words:
        if word and set(word) <= _ENDS:
            return
        if not word.startswith("--"):
            yield "", word
            continue
        given, equals, value = word.partition("=")
        option = next((known for known in WITH_VALUE if len(given) > 2 and known.startswith(given)), "")
        if option:
            yield option, value if equals else next(words, "")
