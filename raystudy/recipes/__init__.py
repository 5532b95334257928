"""Recipes: sources of text and ordered steps become shards. Knows no model, no training and no study."""
