"""What happens inside the layers of a network on a fixed sample: distributions, gradients, flat activations, updates.

`observe` looks once into any module. An `Observer` is what a training has look now and then.
"""

from batchnorm.dynamics.observer import Observer, sample_of, thinned
from batchnorm.dynamics.observing import ObservedLayers, observe, observe_layers

__all__ = ["ObservedLayers", "Observer", "observe", "observe_layers", "sample_of", "thinned"]
