"""A comparison -> the page a person reads, and figures that notebooks reuse. Trains and compares nothing."""
