"""Run a model, in whole or in part, and leave it unchanged."""
