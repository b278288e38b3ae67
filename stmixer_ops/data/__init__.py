"""Data sets: scikit-learn's digits, idx files, CIFAR, folders of images, event cameras.

:func:`load_dataset` gives any of them as :class:`ImageData`: a train and a test set with the
classes, normalisation and sizes that a model and a checkpoint need to know. :class:`FrameData`
holds frames of event cameras; :func:`frames_of` makes them of any iterable of recordings. Names
are loaded on first use: :mod:`~stmixer_ops.data.pictures` reads files without importing torch.
"""

from typing import TYPE_CHECKING

from .._lazy import loader

if TYPE_CHECKING:
    from .frames import MemoryFrames
    from .framing import stored_frames
    from .images import FolderImages, ImageSet, InMemory, MemoryImages
    from .load_events import EVENT_SETS, frames_of
    from .preparation import Prepare, PrepareFrames, PrepareImages, normalise, stored_preparation
    from .registry import list_datasets, load_dataset
    from .select import first_images, spread_images
    from .sets import Data, FrameData, ImageData, SampleSet
    from .stored import finds_data, load_stored, stored_root, with_steps

__getattr__ = loader(
    __name__,
    {
        "frames": ("MemoryFrames",),
        "load_events": ("EVENT_SETS", "frames_of"),
        "framing": ("stored_frames",),
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
        "stored": ("finds_data", "load_stored", "stored_root", "with_steps"),
    },
)

__all__ = [
    "EVENT_SETS",
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
    "frames_of",
    "list_datasets",
    "load_dataset",
    "load_stored",
    "normalise",
    "spread_images",
    "stored_frames",
    "stored_preparation",
    "stored_root",
    "with_steps",
]
