"""Distances between sets of images, over features of a named backbone."""

from __future__ import annotations

from unpaired.metrics.backbones import BACKBONES, Backbone, open_backbone
from unpaired.metrics.distances import KernelDistance, Statistics, frechet_distance, kernel_distance

__all__ = [
    "BACKBONES",
    "Backbone",
    "KernelDistance",
    "Statistics",
    "frechet_distance",
    "kernel_distance",
    "open_backbone",
]
