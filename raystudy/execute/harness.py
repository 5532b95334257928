"""A run on storage as a model of lm-evaluation-harness, for whatever the harness can ask beside a study's own tasks.

import lm_eval
from raystudy.artifacts.storage import open_storage
from raystudy.execute.harness import harness_model
lm_eval.simple_evaluate(model=harness_model(open_storage("raystudy-storage"), run_id), tasks=["arc_easy"])
"""

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from raystudy.artifacts.storage import Storage
from raystudy.artifacts.weights import read_weights
from raystudy.errors import DataError, MissingPackageError, StorageError
from raystudy.recipes.downstream.questions import encode_pairs
from raystudy.recipes.tokenizer import EMBEDDED, open_tokenizer
from raystudy.specs.base import canonical_json
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.train.harness import HarnessModel


def harness_model(storage: Storage, run_id: str, tokenizer: str = EMBEDDED, device: str = "cpu") -> "HarnessModel":
    """The last weights of the finished run `run_id`, with the study's tokenizer.

    Raises:
        StorageError: there is no such run, or its weights were not kept or are torn.
        DataError: it is no training of a decoder, or the tokenizer is not that of its study.
        MissingPackageError: lm-evaluation-harness is not installed.
    """
    if find_spec("lm_eval") is None:
        raise MissingPackageError("lm-evaluation-harness must be installed; run: pip install 'raystudy[tasks]'")
    run, opened = _run(storage, run_id), open_tokenizer(tokenizer)
    if opened.vocabulary_size != run.model.vocabulary:
        raise DataError(
            f"the tokenizer must be that of the run's study, of {run.model.vocabulary} tokens, but {tokenizer} has "
            f"{opened.vocabulary_size}. Name the study's tokenizer"
        )
    arrays = read_weights(storage.runs.folder(run_id), run.settings.steps)
    if arrays is None:
        raise StorageError(f"the weights of run {run_id} must be on the storage, but were not kept. Train it again")
    from raystudy.train.harness import HarnessModel
    from raystudy.train.run import load_weights

    model = load_weights(run, arrays, device)
    return HarnessModel(model, partial(encode_pairs, opened), run.model.context, device)


def _run(storage: Storage, run_id: str) -> TrainRun:
    record = storage.runs.read(run_id)
    if record is None or record.status != "finished":
        raise StorageError(f"{run_id} must be a finished run on {storage.root}, but is none.")
    kind = record.result["spec"].get("kind")
    if kind != "train":
        raise DataError(f"run {run_id} must be a training of a decoder, but is of kind {kind!r}")
    return TrainRun.model_validate_json(canonical_json(record.result["spec"]))
