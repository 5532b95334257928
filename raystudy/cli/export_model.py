"""Write a trained model to a folder that `transformers` loads: config.json, model.safetensors and the tokenizer."""

import argparse
import json
import sys
from pathlib import Path

from raystudy.artifacts.weights import read_weights
from raystudy.cli.finished import open_results
from raystudy.cli.options import add_storage, add_study
from raystudy.errors import DataError, SpecError
from raystudy.execute.inputs import need_packages
from raystudy.recipes.tokenizer import END_OF_TEXT, TokenizerFile, open_tokenizer
from raystudy.specs.run import TrainRun
from raystudy.study.results import StudyResults
from raystudy.study.waves import make_wave
from raystudy.train.transformers_families import family_of
from raystudy.train.transformers_format import model_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    parser.add_argument("dest", metavar="DEST", help="the folder to write; must be new or empty")
    parser.add_argument("--run", required=True, metavar="RUN_ID", help="a run of the study, or how its id begins")
    add_storage(parser)


def call(options: argparse.Namespace) -> int:
    """Write the folder and say what it holds."""
    need_packages("safetensors")
    found = open_results(options)
    results = StudyResults(found.storage, found.folder)  # as it was last run
    run = _find_run(results, options.run)
    family = family_of(run.model)
    arrays = read_weights(results.storage.runs.folder(run.run_id), run.settings.steps)
    if arrays is None:
        raise DataError(
            f"run {run.run_id} must have weights, but none lie on the storage: it has not finished, they were too "
            f"large to be kept, or they were removed. Run the study, or choose another run"
        )
    tokenizer = _tokenizer(results, run)
    end_of_text = None if tokenizer is None else tokenizer.end_of_text
    files = model_files(run.model, arrays, {"run_id": run.run_id}, end_of_text)
    if tokenizer is not None:
        files |= _tokenizer_files(tokenizer, run.model.context)
    _write(Path(options.dest), files)
    print(f"{options.dest}: run {run.run_id} as {family.architecture}; {', '.join(files)}")
    return 0


def _find_run(results: StudyResults, start: str) -> TrainRun:
    runs = {run_id: wanted.run for run_id, wanted in make_wave(results.state).wanted.items()}
    found = [run for run_id, run in runs.items() if run_id.startswith(start)]
    if len(found) != 1:
        raise SpecError(
            f"--run must be how the id of one run of {results.study.name!r} begins, but {start!r} is that of "
            f"{len(found)}. `raystudy.load(...).runs` lists them"
        )
    if not isinstance(found[0], TrainRun):
        raise SpecError(f"--run must be a run of a decoder, but {found[0].run_id} is of kind {found[0].kind!r}")
    return found[0]


def _tokenizer(results: StudyResults, run: TrainRun) -> TokenizerFile | None:
    """The study's tokenizer, or None, with the cause on standard error, where it is not that of the run."""
    try:
        tokenizer = open_tokenizer(results.study.tokenizer)
    except DataError as error:
        cause = str(error)
    else:
        if tokenizer.vocabulary_size == run.model.vocabulary:
            return tokenizer
        cause = f"it has {tokenizer.vocabulary_size} tokens and the run {run.model.vocabulary}"
    print(f"raystudy: without a tokenizer: {cause}", file=sys.stderr)
    return None


def _tokenizer_files(tokenizer: TokenizerFile, context: int) -> dict[str, bytes]:
    token = END_OF_TEXT
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": token,
        "eos_token": token,
    }
    return {
        "tokenizer.json": tokenizer.path.read_bytes(),
        "tokenizer_config.json": (json.dumps(config, indent=1) + "\n").encode(),
    }


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SpecError(f"DEST must be a new or an empty folder, but {folder} holds files. Name another")
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise SpecError(f"DEST must be a folder that can be written, but {folder}: {error.strerror}") from error
