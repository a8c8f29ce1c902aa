"""Reads an image file of any supported format as RGB, in bounded memory."""

from altogether_rt.data.images.limits import IMAGE_ERROR_KINDS, ImageLimits
from altogether_rt.data.images.opening import image_notes, load_image, open_image, upright_rgb
from altogether_rt.data.rgb import to_rgb

__all__ = [
    "IMAGE_ERROR_KINDS",
    "ImageLimits",
    "image_notes",
    "load_image",
    "open_image",
    "to_rgb",
    "upright_rgb",
]
