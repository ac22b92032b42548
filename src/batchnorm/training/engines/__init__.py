"""What takes training steps: the fused engine, autograd, and the face that they share."""

from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.engine import Engine, make_engine
from batchnorm.training.engines.fused import FusedEngine

__all__ = ["AutogradEngine", "Engine", "FusedEngine", "make_engine"]
