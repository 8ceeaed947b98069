"""VL-LTR in JAX: class-wise text supervision for long-tailed recognition.

Tian et al., "VL-LTR: Learning Class-wise Visual-Linguistic Representation for
Long-Tailed Visual Recognition", ECCV 2022.

Dimension letters used in every annotation of the package:
    B global batch, b per-device batch, C classes, M anchors per class, S sentences,
    L tokens, N images, P patches, D embedding width, H heads, W image width (with H
    for height in image shapes).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vl_ltr_jax.recognizer.load import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Commands that need no model start without waiting for it.
    if name == "load":
        from vl_ltr_jax.recognizer.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
