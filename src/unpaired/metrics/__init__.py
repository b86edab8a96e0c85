"""Distances between sets of images, over features of a named backbone, and scores of pixels against a ground truth."""

from __future__ import annotations

from unpaired.metrics.backbones import BACKBONES, Backbone, open_backbone
from unpaired.metrics.distances import KernelDistance, Statistics, frechet_distance, kernel_distance
from unpaired.metrics.pixels import mask_iou, pixel_accuracy

__all__ = [
    "BACKBONES",
    "Backbone",
    "KernelDistance",
    "Statistics",
    "frechet_distance",
    "kernel_distance",
    "mask_iou",
    "open_backbone",
    "pixel_accuracy",
]
