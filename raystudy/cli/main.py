"""The command line: `raystudy VERB`, also `python -m raystudy VERB`. Parses, calls, prints.

Exit status: 0 done; 1 another error; 2 a wrong study file or option; 3 the storage; 4 data; 5 the study is held by
another driver; 6 some wanted runs have no result; 7 a package is missing; 8 the launch stopped at its budget;
9 parity: the trainers differ; 10 parity: it cannot be decided; 11 run-task stopped where it can go on;
130 interrupted, 143 ended by SIGTERM.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from raystudy import __version__
from raystudy.cli.stopping import stoppable, tell_last
from raystudy.errors import RaystudyError, StorageError

VERBS = {
    "check": "check a study file and all files it names; every problem is reported at once",
    "plan": "show what a study wants: runs done and missing, tokens, FLOPs, time",
    "run": "make every run that is wanted and not done, with Ray Tune or on this machine alone",
    "run-task": "make the runs of one task that `raystudy plan --emit` has written, as a job of Slurm or by hand",
    "parity": "see whether the trainer of one process and the reference trainer are the same thing, in a few steps",
    "submit": "submit a study to a Ray cluster as a job, over HTTP, with exactly the files it needs",
    "jobs": "list the jobs on a cluster that run studies",
    "logs": "print the log of a study's job, or follow it to the job's end",
    "stop": "stop a study's job: it is interrupted and ends in its own time; finished runs stay",
    "status": "show how far a study is, from its storage alone, while it runs or afterwards",
    "pull": "copy a study's records, evaluations and comparison to a folder here; no shards, no weights",
    "compare": "compare a study's candidates with its truth, from the records on storage",
    "lock": "write down, before a study runs, what it will be judged by",
    "report": "write a study's report: one self-contained HTML page",
    "track": "tell MLflow or Weights & Biases of a study's finished runs, from its storage alone",
    "export": "write a study's records to one Parquet file",
    "export-model": "write a trained model to a folder that transformers loads",
    "import": "put the records of an exported study into a storage",
    "storage": "say what lies on a storage and what is used, remove what is not, check all of it",
    "doctor": "check, before training, what it needs of this machine, or of a cluster: packages, GPUs, storage, disk",
    "schema": "print the JSON Schema of a study file, a catalogue or a search space",
}
MODULES = {
    "import": "import_records",
    "export-model": "export_model",
    "run-task": "run_task",
}  # what Python allows as names of modules


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen verb's module is loaded, so that light verbs stay light."""
    parser = argparse.ArgumentParser(
        prog="raystudy",
        description="Which data recipe is best when each is tuned, and which cheap protocol can be trusted to tell.",
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    parser.add_argument("--version", action="version", version=f"raystudy {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            module = import_module(f"raystudy.cli.{MODULES.get(name, name)}")
            module.add_arguments(verb)
            verb.set_defaults(call=module.call)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in any script prints on any terminal
    words = list(sys.argv[1:] if arguments is None else arguments)
    with stoppable() as stop:
        try:
            return _call(words)
        except RaystudyError as error:
            tell_last(words, str(error), "error", error=type(error).__name__, exit_status=error.exit_status)
            return error.exit_status
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            sys.stderr.close()
            return 1
        except Exception as error:
            if stop.signal is None:  # an import that a signal cuts short may fail in any way
                return _tell_defect(error)
        return stop.tell(words)


def _call(words: Sequence[str]) -> int:
    chosen = next((word for word in words if not word.startswith("-")), None)
    options = build_parser(chosen).parse_args(words)
    return int(options.call(options))


def _tell_defect(error: Exception) -> int:
    from raystudy.artifacts.files import NO_ROOM, unwritable  # not before handlers of signals are there

    if isinstance(error, OSError) and error.errno in NO_ROOM:
        print(f"raystudy: {unwritable(error.filename or 'a file', error)}", file=sys.stderr)
        return StorageError.exit_status
    if os.environ.get("RAYSTUDY_TRACEBACK"):
        raise error
    print(f"raystudy: a defect of raystudy: {type(error).__name__}: {error}", file=sys.stderr)
    print("raystudy: RAYSTUDY_TRACEBACK=1 shows where; please report it with the study file", file=sys.stderr)
    return 1
