"""What happens inside the layers of a network on a fixed sample: distributions, gradients, flat activations, updates.

`observe` looks once into any module. An `Observer` is what a training has look now and then.
"""

from batchnorm.dynamics.observer import Observer, sample_of, thinned
from batchnorm.dynamics.observing import ObservedLayers, observe, observe_layers
from batchnorm.dynamics.slopes import HALF_FLAT

__all__ = ["HALF_FLAT", "ObservedLayers", "Observer", "observe", "observe_layers", "sample_of", "thinned"]
