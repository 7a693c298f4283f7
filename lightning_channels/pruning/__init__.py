"""Pruning a trained model to a budget."""
