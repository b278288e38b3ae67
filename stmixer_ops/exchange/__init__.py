"""Networks to and from other tools' files."""

from .onnx import to_onnx

__all__ = ["to_onnx"]
