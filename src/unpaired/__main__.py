"""``python -m unpaired`` is the command ``unpaired``."""

from unpaired.cli import main

if __name__ == "__main__":
    main()
