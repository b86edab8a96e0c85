"""Build the wheel, install it into an empty environment that lacks all extras, and use what a user would use first.

Run by ``make wheel``. The environment borrows the packages already installed beside this script, so that torch is not
installed twice; the package itself comes from the wheel alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WANTED = [
    "unpaired/py.typed",
    "unpaired/cli/__init__.py",
    "unpaired/methods/unit.py",
    "unpaired/report/page.css",
    "unpaired/report/page.html.j2",
    "unpaired/report/page.js",
    *(f"unpaired/translate/web/{name}" for name in ("model.js", "page.css", "page.html", "page.js", "worker.js")),
]


def run(*command: object, **options: object) -> str:
    """Run a command, show what it prints when it fails, give its standard output."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"failed ({done.returncode}): {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def main() -> None:
    """Build, look inside, install, use."""
    with tempfile.TemporaryDirectory() as scratch:
        dist = Path(scratch) / "dist"
        run(sys.executable, "-m", "build", "--wheel", "--outdir", dist, cwd=ROOT)
        (wheel,) = dist.glob("*.whl")
        names = set(zipfile.ZipFile(wheel).namelist())
        presets = {f"unpaired/presets/{p.name}" for p in (ROOT / "src/unpaired/presets").glob("*.toml")}
        missing = ({*WANTED} | presets) - names
        strangers = {n for n in names if not n.startswith(("unpaired/", "unpaired-"))}
        if missing or strangers:
            sys.exit(f"wheel: missing {sorted(missing)}, unexpected {sorted(strangers)}")
        place = Path(scratch) / "venv"
        venv.create(place, with_pip=False)
        python = place / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
        site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])").strip())
        (borrowed,) = [p for p in map(Path, sys.path) if p.name == "site-packages"]
        # after the wheel's own folder, and without the editable install's import hook
        (site / "borrowed.pth").write_text(f"{borrowed}\n")
        (site / "unpaired_first.pth").write_text(
            "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
        )
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        where = run(python, "-c", "import unpaired; print(unpaired.__file__)", env=clean, cwd=scratch).strip()
        if not where.startswith(scratch):
            sys.exit(f"the check used {where}, not the wheel")
        command = place / "bin" / "unpaired"
        for arguments in (["--version"], ["--help"], ["presets"], ["train", "--help"]):
            print(run(command, *arguments, env=clean, cwd=scratch).splitlines()[0])
        run(python, "-c", "import sys, unpaired.cli; sys.exit('torch' in sys.modules)", env=clean, cwd=scratch)
        print(f"wheel ok: {wheel.name}, {len(names)} files")


if __name__ == "__main__":
    main()
