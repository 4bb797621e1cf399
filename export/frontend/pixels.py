"""An image model whose exported file takes 8-bit pixels, as from a camera, and normalizes them in the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...layers.images import ImageProcessor
from ...signature import Graph, Signature, TensorSpec
from ...zoo.base import ZooModel

Tensor = Any

PIXELS = "attention_zoo.pixels"  # metadata key of the preprocessing steps in a file
STEPS = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


class PixelView:
    """A view of a model whose image input is uint8 (0 to 255) instead of float32.

    All other attributes are those of the model.

    Args:
        model: a model of which one input is an image.
        steps: the arguments `STEPS` of ``ImageProcessor``; empty for a model that normalizes its input itself.

    Raises:
        ValueError: `steps` do not fit the number of channels of the image.
    """

    def __init__(self, model: ZooModel, steps: Mapping[str, Any]) -> None:
        self.model, self.steps = model, dict(steps)
        processor = ImageProcessor(do_resize=False, **self.steps) if steps else None
        self.processor = processor
        image = _image(model)
        assert image is not None
        if processor is not None:
            processor.compute_output_shape((None, None, None, image.dims[-1]))  # checks the number of channels

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def signature(self) -> Signature:
        image, inputs = _image(self.model), self.model.signature.inputs
        pixels = {"dtype": "uint8", "below": 256, "spread": None}
        return replace(
            self.model.signature, inputs=tuple(replace(one, **pixels) if one == image else one for one in inputs)
        )

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        """Return the one graph of the view, without a key/value cache, for any `kind`; see ``ZooModel.graphs``."""
        return {"model": Graph(self.signature.exported(), self.by_name)}

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert and normalize the pixels, call the model and return its outputs by name; see ``ZooModel.by_name``."""
        from keras import ops

        found = _image(self.model)
        assert found is not None
        name = found.name
        image = ops.cast(inputs[name], "float32")
        return self.model.by_name({**inputs, name: image if self.processor is None else self.processor(image)})

    @property
    def file_metadata(self) -> dict[str, str]:
        """The metadata entry from which ``verify`` restores the view."""
        return {PIXELS: json.dumps(self.steps)}


def with_pixels(model: Any, image_dtype: str | None, image_processor: Any = None) -> Any:
    """Return the view of `model` whose images have the dtype `image_dtype`, which may be `model` itself.

    Args:
        model: the model to export.
        image_dtype: "uint8" for a ``PixelView``; None or "float32" for the model itself.
        image_processor: an ``ImageProcessor``, or the content of a preprocessor_config.json, which specifies how pixels
            are normalized. Default: the preprocessing that the model was loaded with.

    Raises:
        ValueError: `image_dtype` is "uint8", and the model does not take images, the normalization is not known, or
            there is an `image_processor` for a model that preprocesses its images itself.
    """
    if image_dtype != "uint8":
        return model
    if not isinstance(model, ZooModel) or not _takes_images(model):
        kind = getattr(model, "family", type(model).__name__)
        raise ValueError(f"image_dtype: got 'uint8' for a {kind}; accepted: None, or an image model of attention_zoo")
    if getattr(model.config, "preprocessing", None) is not None:
        if image_processor is not None:
            raise ValueError("image_processor: got one for a model that prepares its images itself; accepted: None")
        return PixelView(model, {})
    said = model.preprocessor if image_processor is None else image_processor
    if not said:
        raise ValueError(
            "image_processor: got none for a model that was loaded without a preprocessor_config.json; accepted: what "
            "one says, such as {'image_mean': [0.5, 0.5, 0.5], 'image_std': [0.5, 0.5, 0.5]}, or an ImageProcessor"
        )
    processor = said if isinstance(said, ImageProcessor) else ImageProcessor.from_huggingface(said)
    return PixelView(model, {name: getattr(processor, name) for name in STEPS})


def pixels_in_file(model: Any, metadata: Mapping[str, str]) -> Any:
    """Return the view of `model` that a file with this metadata was made from, which may be `model` itself."""
    if PIXELS not in metadata or not isinstance(model, ZooModel) or not _takes_images(model):
        return model
    return PixelView(model, json.loads(metadata[PIXELS]))


def _takes_images(model: ZooModel) -> bool:
    return _image(model) is not None


def _image(model: ZooModel) -> TensorSpec | None:
    """Return the specification of the input that is an image; None if there is none."""
    images = (spec for spec in model.signature.inputs if len(spec.dims) == 4 and {"height", "width"} <= {*spec.dims})
    return next(images, None)
