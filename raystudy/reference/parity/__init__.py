"""Whether `train` and `reference` are the same trainer for one model, and where not, in what they differ."""
