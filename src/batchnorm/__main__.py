"""``python -m batchnorm``: the command line."""

from batchnorm.cli import main

main()
