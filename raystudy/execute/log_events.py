"""What a launch says as JSON lines: one object an event, for programs that read logs. Text is for people (progress.py).

Every event has `time` (UTC, ISO 8601), `level` (info, warning, error), `event` and `message`, which is what text would
say; then what it is about: study, run_id, recipe, model, lr, seed, status, seconds, ...
"""

import datetime
import json
import os
from collections.abc import Sequence
from typing import Any, Literal

from raystudy.errors import SpecError

LogFormat = Literal["text", "json"]
Level = Literal["info", "warning", "error"]
LOG_FORMATS = ("text", "json")
VARIABLE = "RAYSTUDY_LOG_FORMAT"  # for jobs, whose command line somebody else wrote


def log_format(option: str | None = None) -> LogFormat:
    """The format that `--log-format` names, else RAYSTUDY_LOG_FORMAT, else text.

    Raises:
        SpecError: the variable names no format.
    """
    chosen = option or os.environ.get(VARIABLE) or "text"
    if chosen not in LOG_FORMATS:
        known = " or ".join(LOG_FORMATS)
        raise SpecError(f"{VARIABLE} must be {known}, but is {chosen!r}. Set it so, or unset it")
    return "json" if chosen == "json" else "text"


def is_json_asked(words: Sequence[str]) -> bool:
    """Whether a command line of a verb that takes `--log-format` asks for JSON, itself or by the variable."""
    if not {"run", "run-task"}.intersection(words):
        return False
    places = [place for place, word in enumerate(words) if word == "--log-format"]
    given = [words[place + 1] for place in places if place + 1 < len(words)]
    given += [word.partition("=")[2] for word in words if word.startswith("--log-format=")]
    return (given[-1] if given else os.environ.get(VARIABLE)) == "json"


def event_line(event: str, level: Level, message: str, **about: Any) -> str:
    """One event as a line of JSON; what is None or empty is left out."""
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    told = {key: value for key, value in about.items() if value is not None and value != ""}
    return json.dumps({"time": time, "level": level, "event": event, **told, "message": message}, allow_nan=False)
