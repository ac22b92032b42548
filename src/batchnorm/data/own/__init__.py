"""Examples of the user's own: a folder of images, or arrays in files, become a `Dataset` as those with a name do.

And files of the same kinds, without labels, become inputs to predict.
"""

from batchnorm.data.own.origin import changes_of_files, load_again, load_own
from batchnorm.data.own.pictures import Picture, read_image
from batchnorm.data.own.unlabelled import ArrayFile, ImageFiles, open_unlabelled

__all__ = [
    "ArrayFile",
    "ImageFiles",
    "Picture",
    "changes_of_files",
    "load_again",
    "load_own",
    "open_unlabelled",
    "read_image",
]
