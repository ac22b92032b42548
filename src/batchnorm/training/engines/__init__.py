"""What takes training steps: the fused engine, autograd, their face, and the table of optimisers."""

from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.engine import Engine, make_engine
from batchnorm.training.engines.fused import FusedEngine
from batchnorm.training.engines.optimizers import update_rule

__all__ = ["AutogradEngine", "Engine", "FusedEngine", "make_engine", "update_rule"]
