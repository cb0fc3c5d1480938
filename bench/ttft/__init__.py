"""Time to first token with and without kvquilt, per serving engine."""
