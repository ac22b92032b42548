"""A model that does well in training and fails in inference: find the layer, apply the remedy, look again.

pip install batchnorm; python diagnose_and_fix.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn

torch.manual_seed(0)
inputs = 4 * torch.randn(2000, 6) + 10  # far from mean 0 and variance 1
labels = (inputs.sum(1) > 60).long()
batches = list(zip(inputs.split(100), labels.split(100), strict=True))

# The layer's momentum was copied from Keras, where 0.99 is the weight of the old average. In torch it is the weight of
# the newest batch: and the last batches of this training are all of one class.
model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16, momentum=0.99), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
order = [*range(2000), *labels.nonzero().flatten().tolist()[:100]]
for _ in range(3):
    for rows in torch.tensor(order).split(100):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()


def accuracy() -> float:
    """Return the share of right answers in inference."""
    with torch.no_grad():
        return (model(inputs).argmax(1) == labels).double().mean().item()


model.eval()
print(f"before: accuracy {accuracy():.2f}")
print(bn.diagnose(model, batches))

model[1].momentum = bn.convert_momentum(0.99, "keras")  # what the two findings recommend
bn.recalibrate(model, batches)
print(f"after: accuracy {accuracy():.2f}")
print(f"findings left: {len(bn.diagnose(model, batches).findings)}")
