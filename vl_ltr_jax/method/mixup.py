"""Mixup and CutMix of a batch with its reverse, on the device.

VL-LTR fine-tunes with both (mixup 0.8, CutMix 1.0, one or the other with equal chance,
label smoothing 0.1). Both are one weighted sum of an image and its partner: the weight
is constant for mixup, 0 inside a box and 1 outside for CutMix.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from vl_ltr_jax.method.losses import one_hot_smooth


def mix(
    key: Key[Array, ""],
    images: Float[Array, "B *rest"],
    labels: Int[Array, " B"],
    num_classes: int,
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    switch_probability: float = 0.5,
    label_smoothing: float = 0.1,
) -> tuple[Float[Array, "B *rest"], Float[Array, "B C"]]:
    """Mixes a batch at random; one weight and one box for the whole batch.

    Args:
      key: decides method, weight and box.
      images: normalised images [B, H, W, 3], or features [B, D] if both methods are
        off.
      labels: class of each image.
      num_classes: C.
      mixup_alpha: weights of mixup are Beta(alpha, alpha); 0 turns mixup off.
      cutmix_alpha: the same for CutMix.
      switch_probability: chance of CutMix where both are on.
      label_smoothing: share of every target spread over all classes.

    Returns:
      The images and their soft targets; unmixed where both methods are off.
    """
    targets = one_hot_smooth(labels, num_classes, label_smoothing)
    if not (mixup_alpha or cutmix_alpha):
        return images, targets
    method_key, mixup_key, cutmix_key, y_key, x_key = jax.random.split(key, 5)
    cut = jnp.zeros((), bool)
    if cutmix_alpha > 0:
        chance = switch_probability if mixup_alpha > 0 else 1.0
        cut = jax.random.bernoulli(method_key, chance)
    lam = jnp.ones(())
    if mixup_alpha > 0:
        lam = jax.random.beta(mixup_key, mixup_alpha, mixup_alpha)
    if cutmix_alpha > 0:
        cut_lam = jax.random.beta(cutmix_key, cutmix_alpha, cutmix_alpha)
        lam = jnp.where(cut, cut_lam, lam)
    _, height, width, _ = images.shape
    center_y = jax.random.randint(y_key, (), 0, height)
    center_x = jax.random.randint(x_key, (), 0, width)
    weights, lam = pixel_weights(
        height, width, lam[None], cut[None], center_y[None], center_x[None]
    )
    return blend(images, weights[..., None]), blend(targets, lam[:, None])


def pixel_weights(
    height: int,
    width: int,
    lam: Float[Array, " B"],
    cut: Bool[Array, " B"],
    center_y: Int[Array, " B"],
    center_x: Int[Array, " B"],
) -> tuple[Float[Array, "B {height} {width}"], Float[Array, " B"]]:
    """Returns the weight of the image at each pixel, and of its target.

    Args:
      height: height of the images in pixels.
      width: width of the images in pixels.
      lam: for mixup, the weight; for CutMix, the share of the image outside the box.
      cut: True for CutMix, False for mixup.
      center_y: row of the box's centre.
      center_x: column of the box's centre.

    Returns:
      The weights, and `lam`; for CutMix it is the share outside the clipped box.
    """
    box, share = cutmix_box(height, width, lam, center_y, center_x)
    rows, columns = jnp.arange(height)[None, :], jnp.arange(width)[None, :]
    in_rows = (rows >= box[:, :1]) & (rows < box[:, 1:2])
    in_columns = (columns >= box[:, 2:3]) & (columns < box[:, 3:])
    outside = ~(in_rows[:, :, None] & in_columns[:, None, :])
    weights = jnp.where(cut[:, None, None], outside, lam[:, None, None])
    return weights, jnp.where(cut, share, lam)


def cutmix_box(
    height: int,
    width: int,
    lam: Float[Array, " B"],
    center_y: Int[Array, " B"],
    center_x: Int[Array, " B"],
) -> tuple[Int[Array, "B 4"], Float[Array, " B"]]:
    """Returns a box with the share 1 - lam of the image, clipped to it.

    Returns:
      First row, row after the last, first column and column after the last; and the
      share of the image outside the clipped box.
    """
    ratio = jnp.sqrt(1 - lam)
    half_y = (height * ratio).astype(jnp.int32) // 2
    half_x = (width * ratio).astype(jnp.int32) // 2
    y_low, y_high = (jnp.clip(center_y + h, 0, height) for h in (-half_y, half_y))
    x_low, x_high = (jnp.clip(center_x + h, 0, width) for h in (-half_x, half_x))
    share = 1 - (y_high - y_low) * (x_high - x_low) / (height * width)
    return jnp.stack([y_low, y_high, x_low, x_high], axis=1), share


def blend(
    values: Float[Array, "B *rest"], weights: Shaped[Array, "#B *#rest"]
) -> Float[Array, "B *rest"]:
    """Returns the weighted sum of each row and its partner, row B - 1 - i."""
    return values * weights + values[::-1] * (1 - weights)
