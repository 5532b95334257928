"""Training on a CUDA device takes the data of the tests of training."""

from tests.train.conftest import data as data
