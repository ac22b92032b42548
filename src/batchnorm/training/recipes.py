"""Named configurations."""

from collections.abc import Mapping
from types import MappingProxyType

from batchnorm.training.config import TrainingConfig

recipes: Mapping[str, TrainingConfig] = MappingProxyType(
    {
        # The tutorial to the letter. Its momentum of 0.9 is TensorFlow's: 1 - 0.9 = 0.1 here. TensorFlow stores
        # the biased variance of a dense layer's output. eps is the default of tf.layers.batch_normalization.
        "classic": TrainingConfig(
            hidden_layer_sizes=(300, 100),
            activation="elu",
            normalization="batch",
            normalize_logits=True,
            bn_momentum=0.1,
            bn_eps=1e-3,
            bn_variance="biased",
            epochs=40,
            batch_size=50,
            optimizer="sgd",
            learning_rate=0.01,
            momentum=0.0,
            nesterov=False,
            schedule="constant",
            evaluate_every=5,
        ),
    }
)
