"""``batchnorm`` and ``python -m batchnorm``: the command line, or one line that says what it lacks."""

import importlib.util
import sys

_NEEDED = ("typer", "rich", "safetensors")


def main() -> None:
    """Run the command line; without its packages, end with one line on standard error and exit code 1."""
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        sys.exit(f"batchnorm: the command line needs {', '.join(missing)}: pip install batchnorm")
    from batchnorm.cli import main

    main()


if __name__ == "__main__":
    main()
