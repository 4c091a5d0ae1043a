"""A sentence -> who is which word, token spans, weights."""
