"""The public names of the package."""

from __future__ import annotations

import subprocess
import sys


def test_a_public_name_is_itself_whatever_has_been_imported_before() -> None:
    """No room of the package has the name of a public function: importing the room would put a module in its place."""
    code = (
        "import importlib, pkgutil, unpaired\n"
        "rooms = {m.name for m in pkgutil.iter_modules(unpaired.__path__)}\n"
        "print(sorted(rooms & set(unpaired.__all__)))\n"
        "unpaired.evaluate, unpaired.train; import unpaired.evaluation.run\n"
        "print(callable(unpaired.evaluate))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
