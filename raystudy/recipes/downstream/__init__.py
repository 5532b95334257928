"""Downstream tasks -> items on storage."""
