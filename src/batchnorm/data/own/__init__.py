"""Examples of the user's own: a folder of images, or arrays in files, become a `Dataset` as those with a name do."""

from batchnorm.data.own.origin import changes_of_files, load_again, load_own

__all__ = ["changes_of_files", "load_again", "load_own"]
