"""How a process is told, before it starts, how many threads its numerical libraries may use."""


def thread_settings(num_threads: int) -> dict[str, str]:
    """The environment of a process whose libraries use `num_threads` threads each."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(num_threads))
