"""Trainers that are called: they import nothing, so that a process of their own starts at once."""


def with_documents(job):
    row = {"name": "loss", "dataset": "held", "value": 2.4}
    columns = {"loss_sum": [3.0, 9.0], "num_tokens": [2, 3], "num_bytes": [8, 8]}
    return {"status": "finished", "metrics": [{**row, **columns}], "provenance": {"seed": job.seed}}


def all_documents(job, tokens, **columns):
    """A result with 2 nats a token of each document of a validation shard."""
    row = {"name": "loss", "dataset": "held", "value": 2.0, "loss_sum": [2.0 * n for n in tokens], "num_tokens": tokens}
    return {"status": "finished", "metrics": [{**row, **columns}], "provenance": {"seed": job.seed}}


def with_other_tokens(job):
    return all_documents(job, [80] * 9 + [81])


def with_other_bytes(job):
    return all_documents(job, [80] * 10, num_bytes=[200] * 9 + [201])


def without_bytes(job):
    return all_documents(job, [80] * 10)


def drifting(job):
    """Losses that are others at every attempt, as those of a trainer whose kernels are not deterministic."""
    attempts = job.out / "attempts"
    attempts.write_text(attempts.read_text() + "x" if attempts.exists() else "x")
    value = 1.0 + len(attempts.read_text())
    rows = [{"name": "loss", "dataset": held["name"], "value": value} for held in job.spec["validation"]]
    return {"status": "finished", "metrics": rows}
