"""RandAugment and colour jitter, held to their definitions."""

import statistics

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vl_ltr_jax.data.images import augment


def noise_image(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


FILL = (9, 8, 7)


def apply(name, change, image):
    return np.asarray(augment.OPERATIONS[name](image, change, FILL)).astype(int)


@pytest.mark.parametrize("change", [-0.9, 0.9])
def test_value_operations_at_magnitude_nine(change):
    image = noise_image(16, 12)
    pixels = np.asarray(image).astype(int)
    for name, expected in {
        "invert": 255 - pixels,
        "posterize": pixels // 128 * 128,
        "solarize": np.where(pixels < 26, pixels, 255 - pixels),
        "solarize_add": np.where(pixels < 128, np.minimum(pixels + 99, 255), pixels),
    }.items():
        np.testing.assert_array_equal(apply(name, change, image), expected, name)
    assert not apply("posterize", 1.0, image).any()
    assert len(augment.OPERATIONS) == 15


@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_enhancements_go_both_ways(name):
    image, enhancer = noise_image(16, 12), getattr(ImageEnhance, name)
    name = name.lower().replace("color", "colour")
    for change, factor in ((-0.9, 0.19), (0.0, 1.0), (0.9, 1.81)):
        expected = enhancer(image).enhance(factor)
        np.testing.assert_array_equal(apply(name, change, image), expected)


def test_translations_are_shares_of_the_side():
    """45 % of 40 at magnitude 10 is 18 pixels of width, of 20 it is 9 of height."""
    image = noise_image(40, 20)
    pixels = np.asarray(image)
    right, down = apply("translate_x", 1.0, image), apply("translate_y", -1.0, image)
    np.testing.assert_array_equal(right[:, :22], pixels[:, 18:])
    np.testing.assert_array_equal(down[9:], pixels[:11])
    assert (right[:, 22:] == FILL).all() and (down[:9] == FILL).all()


def test_slopes_and_angles():
    line = np.zeros((41, 41, 3), np.uint8)
    line[:, 20] = 255
    shear_x = apply("shear_x", 1.0, Image.fromarray(line))[..., 0]
    # Row y shows what lies 0.3 y further to the right.
    assert abs(int(shear_x[0].argmax()) - int(shear_x[40].argmax()) - 12) <= 1
    turned = apply("rotate", 1.0, Image.fromarray(line))[..., 0]
    # Anticlockwise by 30 degrees: ten rows up is tan(30 deg) * 10 to the left.
    assert abs(int(turned[10].argmax()) - (20 - 5.8)) <= 1


def draws(count=10_000, **numbers):
    rng = np.random.default_rng(0)
    return [augment.draw_operations(rng, **numbers) for _ in range(count)]


def within(count, total, share, sigmas=4.5):
    """Returns True for a likely binomial count; one in 150,000 lies further out."""
    return abs(count - total * share) < sigmas * np.sqrt(total * share * (1 - share))


def test_rand_augment_draws_pairs_of_operations_with_replacement():
    """10,000 draws: each of 15 operations, and each of 225 pairs, as often as another.

    Broken by drawing without replacement, which never gives a pair of equals, and by
    weights; 300 is beyond the 99.95th percentile of chi-square with 224 degrees.
    """
    names = list(augment.OPERATIONS)
    pairs = np.array(
        [[names.index(name) for name, _ in drawn] for drawn in draws(probability=1.0)]
    )
    assert pairs.shape == (10_000, 2)
    for place in range(2):
        counts = np.bincount(pairs[:, place], minlength=15)
        assert all(within(count, 10_000, 1 / 15) for count in counts)
    table = np.bincount(pairs[:, 0] * 15 + pairs[:, 1], minlength=225)
    expected = 10_000 / 225
    assert ((table - expected) ** 2 / expected).sum() < 300


def test_rand_augment_applies_each_operation_half_of_the_time():
    """None, one and both in 1 : 2 : 1; one probability for both would give 1 : 1."""
    counts = np.bincount([len(drawn) for drawn in draws()], minlength=3)
    for count, share in zip(counts, (0.25, 0.5, 0.25), strict=True):
        assert within(count, 10_000, share)


def test_magnitudes_of_rand_augment_are_normal_and_clipped():
    """Kolmogorov-Smirnov against 9 +- 0.5 cut at 10; signs are even and independent.

    1.95 / sqrt(n) is passed by chance once in a thousand; the seed is fixed. Broken by
    a standard deviation of 0.45, by a mean of 9.02, and by drawing again beyond 10.
    """
    changes = np.array([c for drawn in draws(probability=1.0) for _, c in drawn]) * 10
    sizes = np.sort(np.abs(changes))
    normal = np.array([statistics.NormalDist(9, 0.5).cdf(size) for size in sizes])
    inner = sizes < 10
    ranks = np.arange(1, len(sizes) + 1) / len(sizes)
    distance = np.abs(ranks - normal)[inner].max()
    assert distance < 1.95 / np.sqrt(len(sizes))
    assert within((~inner).sum(), len(sizes), 1 - statistics.NormalDist().cdf(2))
    assert within((changes < 0).sum(), len(changes), 0.5)
    assert abs(np.corrcoef(np.sign(changes), np.abs(changes))[0, 1]) < 0.032


def test_rand_augment_applies_what_it_draws_in_order():
    image, rng = noise_image(12, 12), np.random.default_rng(7)
    drawn = augment.draw_operations(np.random.default_rng(7), num_operations=12)
    assert len(drawn) > 2
    expected = image
    for name, change in drawn:
        expected = augment.OPERATIONS[name](expected, change, FILL)
    result = augment.rand_augment(image, rng, fill=FILL, num_operations=12)
    np.testing.assert_array_equal(result, expected)


def test_jitter_of_grey_pictures_scales_brightness():
    grey, rng = Image.new("RGB", (4, 4), (100, 100, 100)), np.random.default_rng(0)
    levels = [np.asarray(augment.jitter_colours(grey, rng)).mean() for _ in range(300)]
    assert 58 <= min(levels) < 66 and 134 < max(levels) <= 141
