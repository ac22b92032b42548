"""What leaves the house: models and estimators as files that run where neither this package nor Python need be.

`verb` is the door. `modules` (any one, written by `foreign`), `runs` and `estimators` (written by `fitted`) make of
what it is given a torch module in inference form, with its input stage (`stages`, `rows`) where it has one; `programs`,
`graphs` and `sequences` are the formats; `sessions` and `checking` compare what was written with what it was made of;
`quantization` makes it smaller. (The room is not called export: `batchnorm.export` is the function.)
"""

from batchnorm.exporting.result import Exported
from batchnorm.exporting.verb import export

__all__ = ["Exported", "export"]
