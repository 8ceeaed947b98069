"""Crops, recipes, normalisation and erasing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.images.decode import as_image, decode_image
from vl_ltr_jax.logs.messages import UnknownNameError
from worlds.golden import GOLDEN, load

RECORDS = load("images/images.json")["images"]


def noise_image(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (64, 73)])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["file"])
def test_evaluation_pixels_equal_the_golden(record, size, shorter):
    """Half to even moves a crop by a pixel; rounding the long side, its content."""
    file = record["file"]
    image = as_image(decode_image((GOLDEN / "images" / file).read_bytes(), file))
    resized = transforms.resize(image, shorter)
    assert resized.size == tuple(record[f"resized_wh_{size}"])
    result = transforms.eval_transform("vl_ltr", size)(image)
    golden = load(f"images/{file}.npz")[f"crop_uint8_{size}"]
    np.testing.assert_array_equal(result, golden)


def test_a_sliver_is_cut_to_its_middle():
    """Without the cut, 3000 x 1 pixels would become 96,000 x 32."""
    image = noise_image(3000, 1)
    middle = image.crop((1484, 0, 1516, 1))
    expected = middle.resize((1024, 32), Image.Resampling.BICUBIC)
    assert transforms.resize(image, 32).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(64, 48), (33, 32), (36, 32), (37, 32), (40, 73)])
def test_clip_pixels_equal_those_of_transformers(size):
    """The whole of CLIP's preprocessing: bicubic by Pillow, crop, constants.

    Broken by the share 256/224, by another filter, by constants of four digits.
    """
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    image = noise_image(*size)
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    ours = transforms.eval_transform("clip", 32)(image)
    result = transforms.normalize(jnp.asarray(ours[None]), "clip")[0]
    np.testing.assert_allclose(
        result, expected.transpose(1, 2, 0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("constants", ["clip", "imagenet"])
@pytest.mark.parametrize("file", ["rgb_457x301.png", "rgba_389x257.png"])
def test_normalized_pixels_equal_the_golden(file, constants):
    """The unrounded constants of CLIP move values by 2e-4."""
    golden = load(f"images/{file}.npz")
    # The golden `clip` is rounded to four digits.
    name = {"clip": "clip_4digit"}.get(constants, constants)
    result = transforms.normalize(jnp.asarray(golden["crop_uint8_64"][None]), name)
    expected = golden[f"tensor_64_{constants}"].transpose(1, 2, 0)
    np.testing.assert_allclose(result[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", transforms.TRAIN_RECIPES)
@pytest.mark.parametrize("shape", [(50, 30), (7, 5), (300, 2)])
def test_training_pixels_depend_on_the_generator_alone(recipe, shape):
    transform = transforms.train_transform(recipe, 16)
    image = noise_image(*shape)
    first, again, other = (
        transform(image, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (16, 16, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    expected = transforms.eval_transform("vl_ltr", 16)(image)
    assert (other != (expected if recipe == "none" else first)).any() == (
        recipe != "none"
    )


def test_crop_boxes():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [transforms._crop_box(400, 300, rng, (0.08, 1.0)) for _ in range(2000)]
    )
    x, y, width, height = boxes.T
    assert (x >= 0).all() and (y >= 0).all()
    assert (x + width <= 400).all() and (y + height <= 300).all()
    assert (abs(np.log(width / height)) < np.log(4 / 3) + 0.02).all()
    area = width * height / 120_000
    # Large boxes fit less often, so the mean lies below that of uniform areas, 0.54.
    assert area.min() < 0.09 and area.max() > 0.9 and 0.4 < area.mean() < 0.52


@pytest.mark.parametrize(
    ("size", "box"),
    [((300, 3), (148, 0, 4, 3)), ((3, 300), (0, 148, 3, 4)), ((1, 1), (0, 0, 1, 1))],
)
def test_crop_of_a_strip_falls_back_to_its_centre(size, box):
    assert transforms._crop_box(*size, np.random.default_rng(0), (1.0, 1.0)) == box


def test_crop_comes_before_resize():
    """`resize(box=...)` reads beyond the box and moves border pixels."""
    image = noise_image(60, 40)
    box = transforms._crop_box(60, 40, np.random.default_rng(5), (0.2, 0.3))
    x, y, width, height = box
    cropped = image.crop((x, y, x + width, y + height))
    expected = cropped.resize((16, 16), Image.Resampling.BICUBIC)
    result = transforms.random_resized_crop(
        image, np.random.default_rng(5), 16, (0.2, 0.3)
    )
    np.testing.assert_array_equal(result, expected)


ERASE = jax.jit(transforms.random_erase, static_argnums=2)


def test_erased_rectangles():
    images = jnp.full((600, 24, 32, 3), 9.0)
    erased = ERASE(jax.random.key(0), images, 0.25)
    changed = np.asarray((erased != images).any(axis=-1))
    hit = changed.any(axis=(1, 2))
    assert 0.19 < hit.mean() < 0.31
    for probability in (0.0, 1.0):
        other = ERASE(jax.random.key(1), images[:16], probability)
        assert (other != images[:16]).any(axis=(1, 2, 3)).mean() == probability
    for mask in changed[hit]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width
        assert height < 24 and width < 32
        assert 0.01 < height * width / (24 * 32) < 0.36
    noise = np.asarray(erased)[changed]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_erasing_does_not_depend_on_devices_or_on_later_rows():
    """Noise drawn once for the batch would change with its size."""
    images = jax.random.normal(jax.random.key(2), (16, 12, 12, 3))
    expected = ERASE(jax.random.key(3), images, 0.9)
    shorter = ERASE(jax.random.key(3), images[:5], 0.9)
    np.testing.assert_array_equal(shorter, expected[:5])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    spread = ERASE(jax.random.key(3), sharded, 0.9)
    assert spread.sharding.spec == PartitionSpec("data")
    np.testing.assert_allclose(spread, expected, rtol=1e-6)


def test_strengths_reach_the_recipes():
    """Each number at an extreme, where it shows."""
    image = noise_image(64, 48)

    def pixels(recipe, seed=0, **strengths):
        transform = transforms.train_transform(
            recipe, 16, strengths=transforms.Strengths(**strengths)
        )
        return transform(image, np.random.default_rng(seed)).astype(int)

    still = {"crop_min_area": 1.0, "flip_probability": 0.0}
    plain = pixels("gentle", **still)
    # No box of the whole area fits, so the largest central box is taken.
    expected = image.crop((0, 0, 64, 48)).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(plain, np.asarray(expected))
    mirrored = pixels("gentle", crop_min_area=1.0, flip_probability=1.0)
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    half = [pixels("gentle", seed, crop_min_area=1.0) for seed in range(400)]
    assert 0.43 < np.mean([(picture == plain).all() for picture in half]) < 0.57
    np.testing.assert_array_equal(pixels("plain", colour_jitter=0.0, **still), plain)
    for name in ("rand_augment_probability", "rand_augment_operations"):
        unchanged = pixels("rand_augment", **{name: 0}, **still)
        np.testing.assert_array_equal(unchanged, plain)
    numbers = {"rand_augment_operations": 3, "rand_augment_probability": 1.0}
    strong = pixels("rand_augment", seed=3, **numbers, **still)
    for changed in ("magnitude", "magnitude_std"):
        strength = {f"rand_augment_{changed}": 3.0}
        other = pixels("rand_augment", seed=3, **numbers, **still, **strength)
        assert (strong != other).any()


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError):
        transforms.eval_transform("clips", 8)
    with pytest.raises(UnknownNameError):
        transforms.train_transform("randaugment", 8)
    with pytest.raises(UnknownNameError):
        transforms.normalize(jnp.zeros((1, 1, 1, 3), jnp.uint8), "imagnet")
