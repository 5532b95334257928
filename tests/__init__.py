"""Tests, and the slow checks beside them, compute on one thread, as a raystudy worker does.

Set before anything loads numpy or torch: with small matrices a second thread costs more than it brings, on a busy
machine many times as much.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
