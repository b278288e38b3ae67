"""Image data sets: scikit-learn's digits, idx files, CIFAR, and folders of images.

:func:`load_dataset` gives any of them as :class:`ImageData`: a train and a test set with the
classes, normalisation and sizes that a model and a checkpoint need to know. :class:`FrameData`
holds frames of event cameras. Names are loaded on first use: :mod:`~stmixer_ops.data.pictures`
reads files without importing torch.
"""

from typing import TYPE_CHECKING

from .._lazy import loader

if TYPE_CHECKING:
    from .frames import MemoryFrames
    from .images import FolderImages, ImageSet, InMemory, MemoryImages
    from .preparation import Prepare, PrepareFrames, PrepareImages, normalise, stored_preparation
    from .registry import list_datasets, load_dataset
    from .select import first_images, spread_images
    from .sets import Data, FrameData, ImageData, SampleSet
    from .stored import finds_data, load_stored, stored_root

__getattr__ = loader(
    __name__,
    {
        "frames": ("MemoryFrames",),
        "images": ("FolderImages", "ImageSet", "InMemory", "MemoryImages"),
        "preparation": (
            "Prepare",
            "PrepareFrames",
            "PrepareImages",
            "normalise",
            "stored_preparation",
        ),
        "registry": ("list_datasets", "load_dataset"),
        "select": ("first_images", "spread_images"),
        "sets": ("Data", "FrameData", "ImageData", "SampleSet"),
        "stored": ("finds_data", "load_stored", "stored_root"),
    },
)

__all__ = [
    "Data",
    "FolderImages",
    "FrameData",
    "ImageData",
    "ImageSet",
    "InMemory",
    "MemoryFrames",
    "MemoryImages",
    "Prepare",
    "PrepareFrames",
    "PrepareImages",
    "SampleSet",
    "finds_data",
    "first_images",
    "list_datasets",
    "load_dataset",
    "load_stored",
    "normalise",
    "spread_images",
    "stored_preparation",
    "stored_root",
]
