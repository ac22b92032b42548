"""Train a batch-normalised network on 8×8 digits, and evaluate it with both kinds of statistics.

pip install 'batchnorm[all]'; python train.py
"""

import batchnorm as bn

dataset = bn.load_dataset("digits")
config = bn.TrainingConfig(hidden_layer_sizes=(64, 32), epochs=15, learning_rate=0.1, schedule="one-cycle", seed=0)
network = bn.DenseNetwork.from_config(config, dataset.n_features, dataset.n_classes)
run = bn.fit(network, dataset, config)

running = bn.evaluate(network, dataset.test)  # running averages over the batches of the training
network.load_state_dict(run.population, strict=False)
population = bn.evaluate(network, dataset.test)  # exact statistics of the whole training set
print(f"{len(dataset.train)} digits trained, {len(dataset.test)} digits tested")
print(f"accuracy with running averages: {running.accuracy:.4f}")
print(f"accuracy with population statistics: {population.accuracy:.4f}")
