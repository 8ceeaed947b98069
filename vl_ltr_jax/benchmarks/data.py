"""The training pipeline, a plain Pillow one, and tf.data.

python -m vl_ltr_jax.benchmarks.data --rounds=5

JPEGs of 500 x 375, as of ImageNet, become pixels of 224 x 224. Ours decodes, crops,
resizes, mirrors and augments on the host and leaves bytes; normalisation and erasing
are left to the device. The plain pipeline does all of it with Pillow and numpy, as the
authors' loader does with torchvision and timm. tf.data has no RandAugment: it is
compared without, with options that give nearly Pillow's pixels. Each side is pinned to
one core; then ours runs on one and on two.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app
from jaxtyping import Float32, UInt8
from PIL import Image

from vl_ltr_jax.benchmarks.paired import count
from vl_ltr_jax.data.batches import examples, loader
from vl_ltr_jax.data.batches.sampler import BatchSampler
from vl_ltr_jax.data.images import augment, transforms
from vl_ltr_jax.data.images.decode import read_content
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.runtime import cpu_memory

WIDTH, HEIGHT, SIDE = 500, 375, 224
_QUALITY = 92
_GRAIN = 14.0  # of the noise; files then have about 110 kB, as ImageNet's
_BATCH_SIZE = 32
_BATCHES_AHEAD = 3


def photograph(seed: int) -> Image.Image:
    """Clouds of several sizes with grain: as much to decode as a photograph."""
    rng = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for cells in (4, 16, 64):
        noise = rng.normal(0, 60 / cells**0.5, (3, cells, cells)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(layer).resize((WIDTH, HEIGHT)))
            for layer in noise
        ]
        pixels += np.stack(layers, axis=-1)
    pixels += rng.normal(0, _GRAIN, (HEIGHT, WIDTH, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_photographs(directory: Path, number: int) -> list[Path]:
    """Writes JPEG files and gives their paths."""
    paths = [directory / f"{index}.jpg" for index in range(number)]
    for index, path in enumerate(paths):
        photograph(index).save(path, quality=_QUALITY)
    return paths


def ours(paths: list[Path], recipe: str) -> Callable[[int], object]:
    """An example of the training loader by its position."""
    split = split_of(paths)
    sampler = BatchSampler(
        split.labels, sampling="uniform", batch_size=_BATCH_SIZE, seed=0
    )
    train_examples = examples.TrainExamples(
        split,
        transforms.train_transform(recipe, SIDE, strengths=STRENGTHS[recipe]),
        sampler,
        0,
        _BATCH_SIZE,
        range(_BATCH_SIZE),
    )
    return lambda position: train_examples(position)["image"]


# The gentle recipe is crop and flip; with 8 % it is VL-LTR's without RandAugment.
STRENGTHS = {
    "rand_augment": transforms.Strengths(),
    "gentle": transforms.Strengths(crop_min_area=0.08),
}


def split_of(paths: list[Path]) -> Split:
    """The files as a split of one class."""
    return Split(
        np.zeros(len(paths), np.int32),
        lambda index: read_content(paths[index], str(index)),
        str,
    )


def plain(paths: list[Path]) -> Callable[[int], Float32[np.ndarray, "3 H W"]]:
    """The same operations with Pillow and numpy, up to erased float32 channels."""
    mean, std = (
        np.array(constants, np.float32)[:, None, None]
        for constants in transforms.NORMALIZATIONS["clip_4digit"]
    )

    def example(position: int) -> Float32[np.ndarray, "3 H W"]:
        rng = np.random.default_rng((0, position))
        with Image.open(paths[rng.integers(len(paths))]) as file:
            image = file.convert("RGB")
        image = transforms.random_resized_crop(image, rng, SIDE)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = augment.rand_augment(image, rng)
        pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255
        return erase((pixels - mean) / std, rng)

    return example


def erase(
    pixels: Float32[np.ndarray, "3 H W"], rng: np.random.Generator
) -> Float32[np.ndarray, "3 H W"]:
    """A quarter of the pictures lose a rectangle of 2 to 33 % to noise, in place."""
    if rng.random() >= 0.25:
        return pixels
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * SIDE * SIDE
        aspect = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if height < SIDE and width < SIDE:
            y, x = rng.integers(SIDE - height + 1), rng.integers(SIDE - width + 1)
            noise = rng.standard_normal((3, height, width), np.float32)
            pixels[:, y : y + height, x : x + width] = noise
            break
    return pixels


def tf_data(paths: list[Path]) -> Callable[[int], UInt8[np.ndarray, "H W 3"]]:
    """tf.data on one thread: only the crop is decoded, resized and mirrored."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def example(path: Any) -> Any:
        content = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content),
            tf.zeros((1, 0, 4)),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(
            content, window, channels=3, dct_method="INTEGER_ACCURATE"
        )
        image = tf.image.resize(image, (SIDE, SIDE), "bicubic", antialias=True)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return tf.image.random_flip_left_right(image)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    dataset = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    dataset = dataset.shuffle(len(paths)).repeat().map(example, num_parallel_calls=1)
    iterator = dataset.with_options(options).as_numpy_iterator()
    return lambda position: next(iterator)


def in_turn(
    sides: dict[str, Callable[[int], object]], number: int, rounds: int
) -> dict[str, list[float]]:
    """Images per second of each side in each round, after one to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, example in sides.items():
            start = time.perf_counter()
            for position in range(turn * number, (turn + 1) * number):
                example(position)
            rates[name].append(number / (time.perf_counter() - start))
    return {name: measured[1:] for name, measured in rates.items()}


def whole_loader(
    paths: list[Path], number: int, cores: set[int], threads: int, workers: int
) -> float:
    """Images per second of the training loader on some cores, once it is running."""
    os.sched_setaffinity(0, cores)  # threads and processes started from here inherit it
    feed = loader.Feed(_BATCH_SIZE, num_threads=threads, num_workers=workers)
    transform = transforms.train_transform("rand_augment", SIDE)
    batches = feed.train(split_of(paths), transform)
    for _ in range(_BATCHES_AHEAD):
        next(batches)
    start = time.perf_counter()
    for _ in range(number // _BATCH_SIZE):
        next(batches)
    return number / (time.perf_counter() - start)


def on_two_cores(paths: list[Path], number: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of the loader on one core and on two, in turn."""
    two_cores = set(sorted(os.sched_getaffinity(0))[:2])
    one_core = {min(two_cores)}
    kinds = {
        "two cores, two threads": (two_cores, 2, 0),
        "one core, one thread": (one_core, 1, 0),
        "two cores, two workers": (two_cores, 1, 2),
        "one core, one worker": (one_core, 1, 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            rates[name].append(whole_loader(paths, number, *kind))
    os.sched_setaffinity(0, two_cores)
    return rates


def compared(rates: dict[str, list[float]]) -> str:
    """Returns the rates as text, and the ratios of sides 1 to 2 and 3 to 4."""
    lines = [
        f"  {name:24} {statistics.median(measured):5.0f} images/s"
        for name, measured in rates.items()
    ]
    names = list(rates)
    for first, second in zip(names[::2], names[1::2], strict=True):
        ratios = [a / b for a, b in zip(rates[first], rates[second], strict=True)]
        lines.append(
            f"  {first}: {statistics.median(ratios):.2f} times {second} "
            f"(rounds: {min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--images", type=count, default=256, help="in each round")
    options = parser.parse_args(arguments)
    # Worker processes are started under absl only.
    app.run(lambda argv: measure(options.images, options.rounds), argv=sys.argv[:1])


def measure(number: int, rounds: int) -> None:
    """Measures and prints.

    Args:
      number: images in each round.
      rounds: how often each side is timed.
    """
    cores = os.sched_getaffinity(0)
    cpu_memory.keep()  # as the main job does on a CPU
    with tempfile.TemporaryDirectory() as directory:
        paths = write_photographs(Path(directory), 64)
        size = statistics.mean(path.stat().st_size for path in paths)
        print(f"JPEGs of {WIDTH} x {HEIGHT}, {size / 1000:.0f} kB; one core:")
        os.sched_setaffinity(0, {min(cores)})
        with_all = {"ours": ours(paths, "rand_augment"), "plain Pillow": plain(paths)}
        print(compared(in_turn(with_all, number, rounds)))
        without = {
            "ours, no RandAugment": ours(paths, "gentle"),
            "tf.data, no RandAugment": tf_data(paths),
        }
        print(compared(in_turn(without, number, rounds)))
        os.sched_setaffinity(0, cores)
        if len(cores) > 1:
            print("the whole loader:")
            print(compared(on_two_cores(paths, 4 * number, rounds)))


if __name__ == "__main__":
    main()
