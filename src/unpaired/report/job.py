"""What the sections of a report share: the page, what it is about, and what was computed for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unpaired.classifier import Classifier
from unpaired.data.check import CheckReport
from unpaired.report.gather import Pictures, Subject
from unpaired.report.looks import Measured, Sight
from unpaired.report.page import Report
from unpaired.translation import Translator


@dataclass
class Job:
    """What the sections share."""

    page: Report
    subject: Subject
    images: int
    limit: int
    seed: int
    sight: Sight
    pictures: Pictures | None = None
    doctor: CheckReport | None = None
    classifier: Classifier | None = None
    measured: list[Measured] = field(default_factory=list)
    sheets: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def translator(self) -> Translator | None:
        """The model, where there is one."""
        return self.subject.translator

    @property
    def from_noise(self) -> bool:
        """Whether the model makes images of noise alone."""
        return self.translator is not None and self.translator.method.from_noise

    def split_of(self, source: str) -> str:
        """Which images of ``source`` are shown: held-out or training ones."""
        return "training" if self.pictures is not None and source in self.pictures.seen else "held-out"
