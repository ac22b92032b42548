"""Batch normalisation in any `torch.nn.Module`."""
