"""Write samples of the newest format of run folders, and what their writer saw: ``python tests/samples/make_runs.py``.

Run once per format, by the last commit that writes it; the samples stay as they are from then on.
"""

import json
from contextlib import suppress
from pathlib import Path

import torch

import batchnorm as bn
from batchnorm.training.runs import RunFolder
from batchnorm.training.runs.plan import Plan
from batchnorm.training.runs.sealing import FORMATS

SAMPLES, NUMBER = Path(__file__).parent, FORMATS[-1]
FINISHED = bn.TrainingConfig(
    hidden_layer_sizes=(8,), normalize_logits=True, bn_variance="biased", dropout=0.1, epochs=2, batch_size=50
)
STOPPED = bn.TrainingConfig(
    hidden_layer_sizes=(4,), dropout=0.1, epochs=2, batch_size=50, optimizer="adamw", learning_rate=0.01,
    early_stopping_patience=2,
)  # fmt: skip


class StopAfterAnEpoch(bn.Monitor):
    def step(self, epoch, step, loss):
        if (epoch, step) == (1, 1):
            raise KeyboardInterrupt


def write(config, name, monitor=None):
    digits = bn.load_dataset("digits")
    network = bn.DenseNetwork.from_config(config, digits.n_features, digits.n_classes)
    return bn.fit(network, digits, config, out=None if name is None else SAMPLES / name, monitor=monitor)


def anonymous(session):
    return session | {"platform": "Linux-x86_64", "cpu": "a processor"}


def main():
    torch.set_num_threads(1)
    seen = {"run": write(FINISHED, f"run-format-{NUMBER}").results, "stopped": write(STOPPED, None).results}
    with suppress(KeyboardInterrupt):
        write(STOPPED, f"stopped-run-format-{NUMBER}", StopAfterAnEpoch())
    for name in ("run", "stopped-run"):
        folder = RunFolder.open(SAMPLES / f"{name}-format-{NUMBER}")
        sessions = [anonymous(session) for session in folder.load_sessions()]
        folder.save_sessions(sessions)
    Plan(STOPPED, "digits", 0, 2, sessions[0] | {"seconds": None}).save(SAMPLES / f"seeds-format-{NUMBER}")
    (SAMPLES / f"format-{NUMBER}.json").write_text(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    main()
