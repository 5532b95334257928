"""Scores of recipes in, agreement with the truth out.

Every score here is lower-is-better; who negates a metric, and what a protocol, a run or a study is, is
unknown to this folder.
"""
