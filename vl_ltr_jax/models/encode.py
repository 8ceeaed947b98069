"""The frozen towers as plain functions of their variables."""

from typing import Any, cast

from jaxtyping import Array, Float, Integer

from vl_ltr_jax.models.clip import Clip


def image(
    model: Clip, variables: dict[str, Any], images: Float[Array, "B H W 3"]
) -> Float[Array, "B D"]:
    """Returns image features of normalised pixels, with running statistics."""
    return cast(Array, model.apply(variables, images, method="encode_image"))


def text(
    model: Clip, variables: dict[str, Any], tokens: Integer[Array, "B L"]
) -> Float[Array, "B D"]:
    """Returns text features of tokenised sentences."""
    return cast(Array, model.apply(variables, tokens, method="encode_text"))
