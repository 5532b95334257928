"""A study as a job on somebody's Ray cluster: what travels, ids, the job server, following and stopping."""
