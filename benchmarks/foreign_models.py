"""Every verb of the toolkit on models of other packages, with random weights and synthetic data.

What each model has, in how many passes it is recalibrated, what is found in it afterwards, what folds and what stays,
what is refused, and what goes wrong: an exception other than a refusal, statistics or outputs that are not as promised.

pip install -c constraints.txt ".[all]" -r benchmarks/requirements-foreign.txt
pip install --no-deps pytorchcv==0.0.74 requests
python benchmarks/foreign_models.py
"""

import copy
import importlib
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import batchnorm as bn

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded: weights are random
BATCHES, EXAMPLES = 3, 8
ROUNDING = {kind: 16 * torch.finfo(kind).eps ** 0.5 for kind in (torch.float32, torch.float64)}  # as fold allows
COLUMNS = (
    "package",
    "model",
    "layers",
    "passes",
    "found afterwards",
    "folded",
    "kept",
    "deviation",
    "refused or wrong",
)


def main(
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    only: Annotated[str, typer.Option(help="A part of the names of the models that are meant.")] = "",
    details: Annotated[bool, typer.Option(help="Print refusals and faults in full.")] = True,
) -> None:
    """Go through all, print."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    table = Table(*COLUMNS, box=None)
    reports = []
    for model in catalogue():
        if only in f"{model.package}/{model.name}":
            begun = time.perf_counter()
            report = examine(model)
            print(model.name, *report.cells(), f"{time.perf_counter() - begun:.0f} s", sep=" | ", flush=True)
            table.add_row(model.package, model.name, *report.cells())
            reports.append((model.name, report))
    Console(width=200).print(table)
    for name, report in reports:
        for line in report.remarks if details else ():
            print(f"{name}: {line}")


@dataclass(frozen=True)
class Foreign:
    """A model of another package."""

    package: str
    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Any]


def catalogue() -> Iterator[Foreign]:
    yield from _transformers()
    yield from _pytorchcv()
    yield from _efficientnet_pytorch()
    yield from _pytorch_tabnet()


def normal(*shape: int) -> Tensor:
    return torch.randn(EXAMPLES, *shape) + 0.5


def _transformers() -> Iterator[Foreign]:
    narrow = {"depths": [1, 2, 1, 1], "hidden_sizes": [16, 32, 48, 64]}
    conformer = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    speech = {"conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    series = {"past_values": lambda: normal(64, 3)}
    yield _from_config("ResNetModel", _pixels(64), embedding_size=16, layer_type="basic", **narrow)
    yield _from_config("RegNetModel", _pixels(64), embedding_size=16, groups_width=8, **narrow)
    yield _from_config("MobileNetV1Model", _pixels(64), depth_multiplier=0.5)
    yield _from_config("MobileNetV2Model", _pixels(64), depth_multiplier=0.5)
    yield _from_config("EfficientNetModel", _pixels(64), width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)
    yield _from_config("LevitModel", _pixels(128), image_size=128)
    segments = {"hidden_sizes": [16, 32, 40, 64], "decoder_hidden_size": 32}
    yield _from_config("SegformerForSemanticSegmentation", _pixels(64), **segments)
    yield _from_config("MobileViTModel", _pixels(64), image_size=64)
    yield _from_config("MobileViTV2Model", _pixels(64), image_size=64, width_multiplier=0.5)
    yield _from_config("CvtModel", _pixels(64), embed_dim=[16, 48, 96], num_heads=[1, 3, 6], depth=[1, 2, 3])
    yield _from_config("SwiftFormerModel", _pixels(64), depths=[1, 1, 2, 1], embed_dims=[16, 32, 64, 96])
    yield _from_config("HGNetV2Backbone", _pixels(64))
    yield _from_config("TextNetModel", _pixels(64))
    yield _from_config("PPLCNetBackbone", _pixels(64))
    yield _from_config("ConvNextModel", _pixels(64), **narrow)
    yield _from_config("Wav2Vec2ConformerModel", _waves(), **conformer, **speech)
    yield _from_config("HubertModel", _waves(), conv_pos_batch_norm=True, **conformer, **speech)
    spectrogram = {"input_features": lambda: normal(64, 80)}
    yield _from_config("ParakeetEncoder", spectrogram, **conformer)
    time_series = {"context_length": 64, "num_input_channels": 3, "patch_length": 8, "patch_stride": 8, "d_model": 16}
    yield _from_config("PatchTSTModel", series, norm_type="batchnorm", **time_series)
    yield _from_config("PatchTSMixerModel", series, norm_mlp="BatchNorm", **time_series)
    yield _from_config(
        "InformerModel", _forecast(), prediction_length=8, context_length=32, d_model=16, num_time_features=1
    )
    yield _from_config("SpeechT5ForTextToSpeech", _speech_and_text(), **_speecht5())
    text = {"input_ids": lambda: torch.randint(1, 70, (EXAMPLES, 20))}
    yield _from_config("FastSpeech2ConformerModel", text, encoder_layers=2, decoder_layers=2, hidden_size=64)


def _speecht5() -> dict[str, Any]:
    layers = {f"{part}_layers": 1 for part in ("encoder", "decoder")}
    heads = {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    widths = {f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")}
    return {"hidden_size": 32, "speech_decoder_postnet_units": 32, **layers, **heads, **widths}


def _speech_and_text() -> dict[str, Callable[[], Tensor]]:
    return {
        "input_ids": lambda: torch.randint(1, 70, (EXAMPLES, 20)),
        "decoder_input_values": lambda: normal(30, 80),
        "speaker_embeddings": lambda: normal(512),
    }


def _forecast() -> dict[str, Callable[[], Tensor]]:
    past = 32 + 7  # the largest lag
    return {
        "past_values": lambda: normal(past),
        "past_time_features": lambda: normal(past, 1),
        "past_observed_mask": lambda: torch.ones(EXAMPLES, past),
        "future_values": lambda: normal(8),
        "future_time_features": lambda: normal(8, 1),
    }


def _waves() -> dict[str, Callable[[], Tensor]]:
    return {"input_values": lambda: normal(8000)}


def _pixels(size: int) -> dict[str, Callable[[], Tensor]]:
    return {"pixel_values": lambda: normal(3, size, size)}


def _from_config(name: str, arguments: dict[str, Callable[[], Tensor]], **config: Any) -> Foreign:
    def build() -> nn.Module:
        kind = getattr(importlib.import_module("transformers"), name)
        return kind(kind.config_class(**config))

    return Foreign("transformers", name, build, lambda: {key: make() for key, make in arguments.items()})


def _pytorchcv() -> Iterator[Foreign]:
    for entry in (
        "resnet.resnet10",
        "seresnet.seresnet10",
        "preresnet.preresnet10",
        "resnext.resnext14_16x4d",
        "densenet.densenet121",
        "dpn.dpn68",
        "mobilenet.mobilenet_w1",
        "mobilenetv2.mobilenetv2_w1",
        "mobilenetv3.mobilenetv3_small_w1",
        "shufflenet.shufflenet_g1_w1",
        "shufflenetv2.shufflenetv2_wd2",
        "ghostnet.ghostnet",
        "efficientnet.efficientnet_b0",
        "mixnet.mixnet_s",
        "squeezenet.squeezenet_v1_0",
        "squeezenext.sqnxt23_w1",
        "mnasnet.mnasnet_small",
        "regnet.regnetx002",
        "vovnet.vovnet27s",
        "octresnet.octresnet10_ad2",
        "revnet.revnet38",
        "hardnet.hardnet39ds",
        "peleenet.peleenet",
        "diracnetv2.diracnet18v2",
    ):
        yield _image_model(entry, 64)
    yield _image_model("bagnet.bagnet9", 32)
    yield _image_model("inceptionv3.inceptionv3", 107)


def _image_model(entry: str, size: int) -> Foreign:
    module, name = entry.split(".")

    def build() -> nn.Module:
        # not from model_provider, which imports torchvision
        return _for_any_size(getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)())

    return Foreign("pytorchcv", name, build, lambda: normal(3, size, size))


def _for_any_size(model: nn.Module) -> nn.Module:
    """Have the last pooling take all positions, not those of the original image size: small images are quick."""
    for name, _ in list(model.named_modules()):
        if name.endswith(("final_pool", "output.avg_pool")):
            model.set_submodule(name, nn.AdaptiveAvgPool2d(1))
    return model


def _efficientnet_pytorch() -> Iterator[Foreign]:
    def build() -> nn.Module:
        package = importlib.import_module("efficientnet_pytorch")
        return package.EfficientNet.from_name("efficientnet-b0", image_size=64)

    yield Foreign("efficientnet_pytorch", "efficientnet-b0", build, lambda: normal(3, 64, 64))


def _pytorch_tabnet() -> Iterator[Foreign]:
    def classes() -> Any:
        return importlib.import_module("pytorch_tabnet.tab_network")

    groups = torch.eye(10)
    for virtual in (EXAMPLES, EXAMPLES // 2):  # ghost batch norm: of the whole batch, of its halves
        options = {"group_attention_matrix": groups, "virtual_batch_size": virtual}
        yield Foreign(
            "pytorch_tabnet",
            f"TabNet, ghosts of {virtual}",
            lambda options=options: classes().TabNet(10, 2, **options),
            lambda: normal(10),
        )
        yield Foreign(
            "pytorch_tabnet",
            f"TabNetPretraining, ghosts of {virtual}",
            lambda options=options: classes().TabNetPretraining(10, **options),
            lambda: normal(10),
        )


@dataclass
class Report:
    """What the verbs have shown on one model."""

    layers: int | None = None
    passes: list[int | None] = field(default_factory=list)
    found: Counter[str] | None = None
    folding: Any = None
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def attempt(self, verb: str, call: Callable[[], Any]) -> Any:
        """Return what a verb returns, or record why it did not."""
        try:
            return call()
        except bn.InputError as error:
            self.refused.append(verb)
            self.remarks.append(f"{verb} refused: {error}")
        except Exception as error:
            self.fault(verb, f"{type(error).__name__}: {error}")
        return None

    def expect(self, verb: str, what: str, holds: Callable[[], bool]) -> None:
        """Record a promise that is not kept."""
        if self.attempt(verb, holds) is False:
            self.fault(verb, what)

    def fault(self, verb: str, text: str) -> None:
        """Record what should not be."""
        self.wrong.append(verb)
        self.remarks.append(f"{verb} WRONG: {' '.join(text.split())[:600]}")

    def cells(self) -> list[str]:
        """Return a row of the table."""
        folding = self.folding
        return [
            "–" if self.layers is None else str(self.layers),
            " / ".join("–" if n is None else str(n) for n in self.passes) or "–",
            "–" if self.found is None else _counts(self.found) or "nothing",
            "–" if folding is None else str(len(folding.folded)),
            "–" if folding is None else _counts(Counter(folding.kept.values())),
            "–" if folding is None else f"{folding.deviation:.0e}",
            ", ".join(self.refused + [f"WRONG: {verb}" for verb in self.wrong]),
        ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counter.most_common())


def examine(foreign: Foreign) -> Report:
    """Go through all verbs with one model."""
    report = Report()
    torch.manual_seed(0)
    model = report.attempt("build", foreign.build)
    batches = report.attempt("batches", lambda: [foreign.batch() for _ in range(BATCHES)])
    if report.wrong or report.attempt("train", lambda: _train(model, batches)) is None:
        return report
    _find(report, model, batches)
    if report.layers != 0:
        _recalibrate(report, model, batches)
        _fold(report, model, batches)
        _freeze(report, model)
        _synchronize(report, model, batches)
        _track(report, model)
    return report


@torch.no_grad()
def _train(model: nn.Module, batches: list[Any]) -> bool:
    """Give the layers running averages, leave the model in inference: in training, some ask for labels."""
    model.eval()
    for layer in norms(model):
        layer.train()
    for batch in batches:
        run(model, batch)
    model.eval()
    return True


def run(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(batch)


def _find(report: Report, model: nn.Module, batches: list[Any]) -> None:
    before = _state(model)
    sites = report.attempt("find_sites", lambda: bn.find_sites(model, batches))
    report.layers = None if sites is None else len(sites)
    report.expect("find_sites", "the model has changed", lambda: _equal(before, _state(model)))


def _recalibrate(report: Report, model: nn.Module, batches: list[Any]) -> None:
    before = _state(model)
    report.attempt("diagnose", lambda: bn.diagnose(model, batches, progress=False))
    report.expect("diagnose", "the model has changed", lambda: _equal(before, _state(model)))
    stepwise = copy.deepcopy(model)
    done = report.attempt("recalibrate", lambda: bn.recalibrate(model, batches, progress=False))
    again = report.attempt("pass by pass", lambda: bn.recalibrate(stepwise, batches, memory=0, progress=False))
    report.passes = [None if result is None else result.n_passes for result in (done, again)]
    if done is not None and again is not None:
        difference = _difference(model, stepwise)
        report.expect("recalibrate", f"pass by pass differs by {difference:.2g}", lambda: difference <= 1e-6)
    if done is not None and (done.unreached or done.not_looked_at):
        report.remarks.append(f"recalibrate: unreached {done.unreached}, not looked at {done.not_looked_at}")
    diagnosis = report.attempt("diagnose", lambda: bn.diagnose(model, batches, progress=False))
    if diagnosis is not None:
        report.found = Counter(finding.cause for finding in diagnosis.findings)
        report.remarks += [f"diagnose: {note}" for note in diagnosis.notes]


def _difference(model: nn.Module, other: nn.Module) -> float:
    """Return how far running statistics are apart, relative to the largest of each buffer."""
    mine, others = _statistics(model), _statistics(other)
    return max(float((mine[key] - others[key]).abs().max() / mine[key].abs().max().clamp(min=1e-12)) for key in mine)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))}


def _fold(report: Report, model: nn.Module, batches: list[Any]) -> None:
    before = _state(model)
    lean = report.attempt("fold", lambda: bn.fold(model, batches[0]))
    report.expect("fold", "the model has changed", lambda: _equal(before, _state(model)))
    if lean is None and "fold" in report.wrong:  # rounding may be that large
        lean, model, batches = _fold_in_double(report, model, batches)
    if lean is not None:
        report.folding = lean.folding
        report.expect("fold", "outputs differ on another batch", lambda: _same_outputs(model, lean, batches[1]))


def _fold_in_double(report: Report, model: nn.Module, batches: list[Any]) -> tuple[Any, nn.Module, list[Any]]:
    """Do as the error advises; if that goes well, it was no mistake."""
    double, precise = copy.deepcopy(model).double(), [_double(batch) for batch in batches]
    lean = report.attempt("fold in float64", lambda: bn.fold(double, precise[0]))
    if lean is not None:
        report.wrong.remove("fold")
        report.refused.append("fold in float32")
    return lean, double, precise


def _double(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _double(value) for key, value in batch.items()}
    return batch.double() if batch.is_floating_point() else batch


@torch.no_grad()
def _same_outputs(model: nn.Module, other: nn.Module, batch: Any) -> bool:
    """Tell whether two models differ by rounding alone, where they are deterministic."""
    pairs = []
    for each in (model, model, other):
        torch.manual_seed(0)
        pairs.append(list(_tensors(run(each, batch))))
    return all(
        float((a - b).abs().max()) <= ROUNDING[a.dtype] * float(a.abs().max()) + float((a - again).abs().max())
        for a, again, b in zip(*pairs, strict=True)
        if a.is_floating_point()
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict | list | tuple):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def _freeze(report: Report, model: nn.Module) -> None:
    before = _state(model)
    report.attempt("freeze", lambda: bn.freeze(model))
    report.expect("freeze", "a layer trains", lambda: not any(layer.training for layer in norms(model.train())))
    model.eval()
    report.attempt("unfreeze", lambda: bn.unfreeze(model))
    report.expect("unfreeze", "the model is not as it was", lambda: _equal(before, _state(model)))


def _synchronize(report: Report, model: nn.Module, batches: list[Any]) -> None:
    before = _state(model)
    report.attempt("synchronize", lambda: bn.synchronize(model))
    report.attempt("unsynchronize", lambda: bn.unsynchronize(model))
    report.expect("unsynchronize", "the model is not as it was", lambda: _equal(before, _state(model)))
    torchs = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    if report.attempt("unsynchronize torch's", lambda: bn.unsynchronize(torchs, batches[0])) is not None:
        report.expect("unsynchronize torch's", "not as it was", lambda: _equal(before, _state(torchs)))


def _track(report: Report, model: nn.Module) -> None:
    bare = copy.deepcopy(model)
    report.expect("track_statistics", "all have some already", lambda: len(bn.track_statistics(bare)) == 0)
    for layer in norms(bare):
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        layer.track_running_stats = False
    report.expect("track_statistics", "some are left out", lambda: len(bn.track_statistics(bare)) == len(norms(bare)))


def norms(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def _state(model: nn.Module) -> dict[str, Any]:
    """Return classes, modes, gradients asked for, parameters and buffers."""
    kinds = {name: (type(module), module.training) for name, module in model.named_modules()}
    asked = {f"{name}?": parameter.requires_grad for name, parameter in model.named_parameters()}
    tensors = {f"{name}=": tensor.clone() for name, tensor in model.state_dict().items()}
    return {**kinds, **asked, **tensors}


def _equal(state: dict[str, Any], other: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else a == b

    return state.keys() == other.keys() and all(same(state[key], other[key]) for key in state)


if __name__ == "__main__":
    typer.run(main)
