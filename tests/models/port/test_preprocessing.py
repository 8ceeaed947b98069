"""Preprocessor files of models: read, converted, or refused by key."""

import json

import pytest

from vl_ltr_jax.models.port import convert
from vl_ltr_jax.models.port.preprocessing import (
    Preprocessing,
    PreprocessingError,
    from_processor_json,
)
from worlds.clip_oracle import hugging_face_clip

HALF = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PROCESSOR = {
    "processor_class": "CLIPProcessor",
    "image_processor": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(HALF[0]),
        "image_std": list(HALF[1]),
    },
}


@pytest.mark.parametrize(("between", "size"), [(None, 32), ("openai", 32), (None, 64)])
def test_the_processor_of_transformers_5_is_copied(tmp_path, between, size):
    """Breaks if processor_config.json is not copied, or OpenAI's numbers replace the
    model's own."""
    from transformers import CLIPImageProcessorPil

    source, out = tmp_path / "source", tmp_path / "out"
    hugging_face_clip().save_pretrained(source)
    (source / "processor_config.json").write_text(json.dumps(PROCESSOR))
    if between:
        source = convert.convert(str(source), tmp_path / "between", to=between)
    convert.convert(str(source), out, to="hf", image_size=size)
    processor = CLIPImageProcessorPil.from_pretrained(out)
    assert (tuple(processor.image_mean), tuple(processor.image_std)) == HALF
    sides = processor.size["shortest_edge"], processor.crop_size["height"]
    assert sides == {64: (72, 64), 32: (32, 32) if between else (36, 32)}[size]
    assert (out / "processor_config.json").exists() == (not between and size == 32)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"image_mean": [0.5, 0.5]}, "mean"),
        ({"image_std": [0.5, 0, 0.5]}, "std"),
        ({"rescale_factor": 1}, "rescale_factor"),
        ({"do_rescale": False}, "do_rescale"),
        ({"resample": 9}, "resample"),
        ({"crop_size": {"height": 32, "width": 40}}, "crop_size"),
        ({"size": {"shortest_edge": [1]}}, "size"),
    ],
)
def test_unsupported_pixels_are_refused(changes, word):
    content = PROCESSOR["image_processor"] | changes
    with pytest.raises(PreprocessingError, match=f"x.json: .*{word}"):
        from_processor_json(content, 32, "x.json")


def test_older_forms_of_a_processor_are_read():
    content = {"size": 40, "crop_size": 32, "do_normalize": False, "resample": 2}
    processor = from_processor_json(content, 224, "x.json")
    assert processor == Preprocessing(
        32, 40, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "bilinear", "shortest"
    )
    square = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    assert from_processor_json(square, 32, "x.json") == Preprocessing(
        32, resize="squash"
    )
