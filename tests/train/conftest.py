"""What tests of training share: a view and validation documents of random but learnable tokens."""

import pytest

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.train.evaluation import ValidationDocuments


@pytest.fixture(scope="session")
def data(shard_storage):
    """The view and, by digest, one set of validation documents."""
    storage, view, validation = shard_storage
    shard = open_tokens(storage, validation)
    return open_view(storage, view), {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
