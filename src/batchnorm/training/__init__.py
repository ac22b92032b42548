"""Where learning happens: the network, the training step, the loop, the run folder."""
