"""Translating pictures and folders with a trained model."""
