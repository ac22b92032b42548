"""The door: what a user gives as a model becomes one object, and no code behind it meets a wrapper."""

from dataclasses import dataclass

from torch import nn
from torch.optim.swa_utils import AveragedModel

from batchnorm.errors import InputError
from batchnorm.toolkit.model.layers import NormLayer, norm_layers
from batchnorm.toolkit.model.opaque import refuse_opaque

_WITH_MODULE = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model that someone gave, without what it is wrapped in.

    Parameters
    ----------
    module : torch.nn.Module
        The model inside: it is what is run and changed, its modes are the modes, its names are the names.
    path : str
        Where it lies in what was given: "", or "module" inside `DataParallel`.
    distributed : bool
        Whether it is or holds a `DistributedDataParallel`.
    """

    module: nn.Module
    path: str
    distributed: bool

    @property
    def layers(self) -> dict[str, NormLayer]:
        """All batch-norm layers of any kind by their (first) qualified names."""
        return norm_layers(self.module)

    def code(self, name: str) -> str:
        """Return the expression by which the user reaches a layer from what they gave."""
        path = ".".join(filter(None, (self.path, name)))
        return f"model.get_submodule({path!r})" if path else "model"


def open_model(model: nn.Module) -> OpenedModel:
    """Take a model out of `DistributedDataParallel`, `DataParallel`, `AveragedModel` and `torch.compile`.

    Raises
    ------
    InputError
        If it is not a model; if it is, or has a part, that `torch.jit` or `torch.export` has made and whose batch norm
        therefore is no layer any more.
    """
    if not isinstance(model, nn.Module):
        raise InputError(_no_model(model))
    distributed = any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())
    path = []
    while (inner := _inside(model)) is not None:
        name, model = inner
        path.append(name)
    refuse_opaque(model)
    return OpenedModel(model, ".".join(path), distributed)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside wrappers, or the module itself: a part of a model may be wrapped, too."""
    while (inner := _inside(module)) is not None:
        module = inner[1]
    return module


def _inside(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Return the name and the module of what a wrapper holds; None for what is not wrapped."""
    if isinstance(model, _WITH_MODULE):
        return "module", model.module
    parts = dict(vars(model).get("_modules", {}).items())  # TorchScript's mapping knows little more than that
    compiled = parts.get("_orig_mod")  # asked for as an attribute, it may compile
    return ("_orig_mod", compiled) if isinstance(compiled, nn.Module) else None


def _no_model(model: object) -> str:
    kind = type(model)
    what = f"model is a {kind.__name__}, expected a torch.nn.Module"
    if kind.__module__.startswith("torch.export"):
        return f"{what}: give the model that was exported"
    if kind.__module__.startswith("torch.jit"):
        return f"{what}: give the original model, before scripting or tracing"
    return what
