"""Image data sets: scikit-learn's digits, idx files, CIFAR, and folders of images.

:func:`load_dataset` gives any of them as :class:`ImageData`: a train and a test set with the
classes, normalisation and sizes that a model and a checkpoint need to know.
"""

from .images import FolderImages, ImageData, ImageSet, MemoryImages
from .registry import list_datasets, load_dataset
from .select import first_images, normalise, spread_images
from .stored import finds_data, load_stored

__all__ = [
    "FolderImages",
    "ImageData",
    "ImageSet",
    "MemoryImages",
    "finds_data",
    "first_images",
    "list_datasets",
    "load_dataset",
    "load_stored",
    "normalise",
    "spread_images",
]
