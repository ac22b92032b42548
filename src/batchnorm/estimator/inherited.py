"""What the estimators inherit from scikit-learn, with a line of documentation each.

Its own is longer than all that they have to say themselves, in `help` and wherever else it is shown.
"""

from functools import cache
from typing import Any, Self


class _Briefly:
    """A method that scikit-learn makes, with a documentation of ours.

    Parameters
    ----------
    method : descriptor
    text : str
    """

    def __init__(self, method: Any, text: str):
        self._method, self._text = method, text

    def __get__(self, instance: Any, owner: type) -> Any:
        made = self._method.__get__(instance, owner)  # a new one each time
        made.__doc__ = self._text
        return made


class Inherited:
    """Documents scikit-learn's methods for parameters and metadata."""

    def __init_subclass__(cls, **options: Any):
        """Have scikit-learn make ``set_fit_request`` and the like, and document them."""
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            if name.startswith("set_") and name.endswith("_request"):
                verb = name.removeprefix("set_").removesuffix("_request")
                text = f"Say which metadata `{verb}` is to get; see scikit-learn's guide to metadata routing."
                setattr(cls, name, _Briefly(method, text))

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(_names_of(cls))  # type: ignore[arg-type]  # mypy takes no class for hashable

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return dict(super().get_params(deep))  # type: ignore[misc]  # scikit-learn's

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, and return this estimator."""
        super().set_params(**params)  # type: ignore[misc]
        return self

    def get_metadata_routing(self) -> Any:
        """Return which metadata the methods ask for."""
        return super().get_metadata_routing()  # type: ignore[misc]


@cache
def _names_of(kind: Any) -> tuple[str, ...]:
    """Return the parameters of a class of estimators: looking into its `__init__` takes longer than a small step."""
    return tuple(super(Inherited, kind)._get_param_names())
