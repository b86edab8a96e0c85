"""One tree of exceptions. Each says what is wrong, what is there, and what to type next.

::

    UnpairedError                 exit 1   something failed
    ├── RefusedError              exit 2   refused before work: nothing was changed
    │   ├── ConfigError                    unknown key, value out of range, changed settings
    │   ├── DataError                      layout, empty domain, too many bad files
    │   │   └── ImageError                 one file that is no usable image
    │   ├── CheckpointError                damaged, foreign or unsafe file
    │   └── WeightsError                   pretrained weights missing or of the wrong hash
    ├── NotComparableError        exit 1   a metric on too few images or on values that are not finite
    ├── PartialError              exit 3   finished, but some items failed
    ├── StoppedError              exit 4   stopped by itself, state saved
    │   ├── NonFiniteError                 NaN or infinity in a loss
    │   └── RankError                      another process of the job has ended or does not answer
    └── Interrupted               exit 130 (SIGINT) or 143 (SIGTERM), state saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnpairedError(Exception):
    """Base of all errors that a user can cause or mend. ``exit_code`` is what the command line returns."""

    exit_code = 1


class RefusedError(UnpairedError):
    """Refused before any work was done."""

    exit_code = 2


class ConfigError(RefusedError):
    """A setting is unknown, out of range, or differs from the run that is being resumed."""


class DataError(RefusedError):
    """The data folder cannot be used as it is."""


class ImageError(DataError):
    """One file is not a usable image. ``reason`` is the text without the path."""

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[object, str]]:
        return ImageError, (self.path, self.reason)  # loader workers send it to the parent process


class CheckpointError(RefusedError):
    """A checkpoint is damaged, foreign, or unsafe to read."""


class WeightsError(RefusedError):
    """Pretrained weights are missing or have the wrong hash."""


class NotComparableError(UnpairedError):
    """A distance was asked for that would be a number without meaning."""


class PartialError(UnpairedError):
    """The work finished, but some items failed; a report lists them."""

    exit_code = 3


class StoppedError(UnpairedError):
    """Training stopped by itself; the last good state is saved."""

    exit_code = 4


class NonFiniteError(StoppedError):
    """A loss became NaN or infinite."""


class RankError(StoppedError):
    """Another process of the job has ended, or does not answer; the last checkpoint is kept."""


class Interrupted(UnpairedError):
    """A signal asked to stop; what could be saved is saved."""

    def __init__(self, signum: int, message: str) -> None:
        self.signum = signum
        self.exit_code = 128 + signum
        super().__init__(message)


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known word closest to ``word``; empty when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
