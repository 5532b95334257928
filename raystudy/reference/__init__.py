"""Reference runs: larger models by several workers under DeepSpeed. The only folder that knows it."""
