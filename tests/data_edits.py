"""Edits of the data side for `mutations.py`: what, where, before, after, and tests."""

AUGMENT = "vl_ltr_jax/data/augment.py"
EXAMPLES = "vl_ltr_jax/data/examples.py"
LOADER = "vl_ltr_jax/data/loader.py"
JPEG = "vl_ltr_jax/data/jpeg.py"
AUGMENT_TESTS = "tests/test_augment.py"
FAULT_TESTS = "tests/test_faults.py"

DATA_EDITS = (
    (
        "pictures enlarged bilinearly",
        "vl_ltr_jax/data/transforms.py",
        "return image.resize(size, Image.Resampling.BICUBIC)",
        "return image.resize(size, Image.Resampling.BILINEAR)",
        "tests/test_transforms.py",
    ),
    (
        "operations drawn without replacement",
        AUGMENT,
        "rng.integers(len(_NAMES), size=num_operations)",
        "rng.permutation(len(_NAMES))[:num_operations]",
        AUGMENT_TESTS,
    ),
    (
        "one draw decides on both operations",
        AUGMENT,
        "    drawn = []\n",
        "    drawn = []\n    probability = float(rng.random() < probability)\n",
        AUGMENT_TESTS,
    ),
    (
        "magnitudes with a standard deviation of 0.45",
        AUGMENT,
        "rng.normal(magnitude, magnitude_std)",
        "rng.normal(magnitude, 0.9 * magnitude_std)",
        AUGMENT_TESTS,
    ),
    (
        "operations that only ever strengthen",
        AUGMENT,
        "change = -strength if rng.random() < 0.5 else strength",
        "change = strength if rng.random() < 0.5 else strength",
        AUGMENT_TESTS,
    ),
    (
        "rows of a JPEG without a margin",
        JPEG,
        "        number += _MARGIN\n",
        "        number += 0\n",
        "tests/test_jpeg.py",
    ),
    (
        "a JPEG cut short believed",
        JPEG,
        "_height_at(content) if whole else 0",
        "_height_at(content)",
        "tests/test_jpeg.py",
    ),
    (
        "a bad image replaced by one of any class",
        EXAMPLES,
        "np.flatnonzero(self.split.labels == self.split.labels[index])",
        "np.arange(len(self.split))",
        FAULT_TESTS,
    ),
    (
        "replacements that are the same in every epoch",
        EXAMPLES,
        "(self.seed, _REPLACEMENT_STREAM, *where)",
        "(self.seed, _REPLACEMENT_STREAM)",
        FAULT_TESTS,
    ),
    (
        "augmentation that forgets the epoch",
        EXAMPLES,
        "rng = np.random.default_rng((self.seed, _PIXEL_STREAM, *where))",
        "rng = np.random.default_rng((self.seed, _PIXEL_STREAM, where[1]))",
        "tests/test_loader.py",
    ),
    (
        "batches of workers dealt by rows",
        LOADER,
        "examples.batch(batch_size).to_iter_dataset(options)",
        "examples.to_iter_dataset(options)",
        "tests/test_workers.py",
    ),
    (
        "waits counted while a step runs",
        "vl_ltr_jax/pace.py",
        "end - max(start, ended.result())",
        "end - start",
        "tests/test_pace.py",
    ),
)
