"""The version alone, so that ``unpaired --version`` and the build read it without importing torch."""

__version__ = "0.1.0"
