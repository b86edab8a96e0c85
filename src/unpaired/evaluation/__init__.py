"""Honest figures of what a model makes."""
