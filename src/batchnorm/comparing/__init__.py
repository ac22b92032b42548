"""The same network trained in several ways, side by side: with and without batch norm, or whatever else is varied."""

from batchnorm.comparing.plan import cell_folders
from batchnorm.comparing.result import Comparison
from batchnorm.comparing.variations import DEFAULT_VARIATIONS, parse_variations
from batchnorm.comparing.verb import compare

__all__ = ["DEFAULT_VARIATIONS", "Comparison", "cell_folders", "compare", "parse_variations"]
