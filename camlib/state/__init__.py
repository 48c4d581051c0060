"""Leaving the model, and PyTorch, as found."""
