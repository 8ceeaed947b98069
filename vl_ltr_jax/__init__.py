"""VL-LTR in JAX: class-wise text supervision for long-tailed recognition.

Tian et al., "VL-LTR: Learning Class-wise Visual-Linguistic Representation for
Long-Tailed Visual Recognition", ECCV 2022.

Dimension letters used in every annotation of the package:
    B global batch, b per-device batch, C classes, M anchors per class, S sentences,
    L tokens, N images, P patches, D embedding width, H heads, W image width (with H
    for height in image shapes).
"""

__version__ = "0.1.0"
