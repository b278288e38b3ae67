"""Image data sets: scikit-learn's digits, idx files, CIFAR, and folders of images.

:func:`load_dataset` gives any of them as :class:`ImageData`: a train and a test set with the
classes, normalisation and sizes that a model and a checkpoint need to know.
"""

from .images import FolderImages, ImageData, ImageSet, MemoryImages
from .registry import list_datasets, load_dataset

__all__ = [
    "FolderImages",
    "ImageData",
    "ImageSet",
    "MemoryImages",
    "list_datasets",
    "load_dataset",
]
