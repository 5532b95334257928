"""Own multiple-choice questions: a JSON object a line with `query`, `choices` and `gold`, as the harness reads it."""

import json
from pathlib import Path
from typing import Any

from raystudy.errors import DataError
from raystudy.recipes.downstream.questions import Question
from raystudy.recipes.sources.text import find_matches, read_utf8
from raystudy.specs.downstream import JsonlTask

_FORM = '{"query": "text", "choices": ["text", "text"], "gold": 0}'


def jsonl_files(task: JsonlTask) -> tuple[Path, ...]:
    """The task's files, each once; raises DataError naming all that are not there."""
    return find_matches(task.files, "a jsonl task")


def jsonl_questions(task: JsonlTask) -> list[Question]:
    """The questions, in the order of files and lines.

    Raises:
        DataError: a file cannot be read, or a line is no question.
    """
    questions: list[Question] = []
    for path in jsonl_files(task):
        for number, line in enumerate(read_utf8(path).split("\n"), start=1):
            if line.strip() and (task.max_items is None or len(questions) < task.max_items):
                questions.append(_question(task, line, f"{path}:{number}"))
    if not questions:
        raise DataError(f"a task must have items, but {', '.join(task.files)} has none. Leave it out or fill it")
    return questions


def _question(task: JsonlTask, line: str, where: str) -> Question:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: the line must be JSON, but is not ({error}). Mend the line") from error
    known = row if isinstance(row, dict) else {}
    query, choices, gold = (known.get(key) for key in ("query", "choices", "gold"))
    if not isinstance(query, str) or not isinstance(choices, list) or len(choices) < 2:
        raise DataError(f"{where}: the line must be a question such as {_FORM}, but is {_shown(row)}. Mend the line")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise DataError(f"{where}: every choice must be text that is not empty, but got {_shown(choices)}")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise DataError(f"{where}: `gold` must be a place among the {len(choices)} choices, from 0, but is {gold!r}")
    try:
        "".join([query, *choices]).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text must be valid Unicode, but {error.reason}. Mend the line") from error
    return Question(tuple((query, f"{task.delimiter}{choice}") for choice in choices), tuple(choices), gold)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 120 else f"{text[:117]}..."
