"""Exported models: a program for JAX alone, plain arrays, names of other packages."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from PIL import Image
from safetensors import safe_open

import vl_ltr_jax
from vl_ltr_jax.commands import export
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.method.losses import contrastive_logits
from vl_ltr_jax.models.port import clip_files, convert
from vl_ltr_jax.recognizer import stablehlo
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.run import initial
from worlds import small_recognizer

SIDE = small_recognizer.IMAGE_SIZE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A recognizer on disk, with a class that was added."""
    directory = tmp_path_factory.mktemp("model") / "saved"
    small_recognizer.make().add_class("jade", ["A jade thing."]).save(directory)
    return directory


@pytest.fixture(scope="module")
def program(saved):
    """It, exported where the command puts it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stablehlo, "COMPARED_SIZES", (2,))  # each is compiled twice
        export.main(["--workdir", str(saved), "--to=stablehlo"])
    return saved / "export" / "stablehlo"


@pytest.fixture(scope="module")
def live(saved):
    """It, loaded again."""
    return vl_ltr_jax.load(saved)


def pictures(number):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (number, SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("number", [1, 17])
def test_a_program_gives_what_the_model_gives(live, program, number):
    """Breaks if an array is left out, renamed or baked in, or a size is."""
    actual = stablehlo.load_exported(program)(pictures(number))
    features, probabilities = jax.jit(live.forward)(live.arrays, pictures(number))
    assert probabilities.shape == (number, 4)
    np.testing.assert_allclose(
        actual["probabilities"], probabilities, atol=1e-5, rtol=0
    )
    scale = np.abs(features).max()
    np.testing.assert_allclose(actual["features"], features, atol=1e-5 * scale, rtol=0)


def test_a_linear_head_is_exported_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "COMPARED_SIZES", (1,))
    recognizer = small_recognizer.make("linear")
    recognizer.save(tmp_path / "saved")
    export.main(["--workdir", str(tmp_path / "saved"), "--to=stablehlo"])
    load = stablehlo.load_exported(tmp_path / "saved" / "export" / "stablehlo")
    expected = recognizer.run_pixels(pictures(1))[1]
    actual = load(pictures(1))["probabilities"]
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


def test_one_program_for_all_platforms_and_no_array_in_it(program):
    content = (program / stablehlo.PROGRAM).read_bytes()
    exported = jax.export.deserialize(bytearray(content))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(side) for side in exported.in_avals[-1].shape][0] == "b"
    assert 'dense<"0x' not in exported.mlir_module()
    with safe_open(program / stablehlo.ARRAYS, "numpy") as arrays:
        names = list(arrays.keys())
    assert "towers/params/visual/proj/kernel" in names
    # Pictures meet no sentence: the text tower stays behind.
    assert not [name for name in names if "/text/" in name]


def test_the_lines_of_the_readme_run_without_this_package(live, program):
    """Breaks if they are wrong, too few, or need more than JAX."""
    text = (program / stablehlo.README).read_text()
    lines = text.split("\n\n")[1].splitlines()
    assert len(lines) == 6
    code = "\n".join([*lines, "import sys; assert 'vl_ltr_jax' not in sys.modules"])
    output = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", code],
        cwd=program,
        env={**os.environ, "PYTHONPATH": ""},
        text=True,
    )
    printed = [float(number) for number in re.findall(r"[\d.]+", output)]
    blank = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    np.testing.assert_allclose(printed, live.run_pixels(blank)[1].ravel(), atol=1e-5)


def test_the_description_says_how_a_picture_becomes_pixels(program):
    described = json.loads((program / stablehlo.DESCRIPTION).read_text())
    assert described["class_names"] == ["crimson", "azure", "moss", "jade"]
    assert described["image_size"] == SIDE
    assert described["pixels"]["shorter_side_resized_to"] == 18
    assert described["outputs"]["probabilities"] == "float32 [b, 4]"
    tower = described["image_tower"]
    assert (tower["activation"], tower["heads"]) == ("quick_gelu", 2)


def test_a_program_that_differs_is_refused_and_nothing_left(
    saved, tmp_path, capsys, monkeypatch
):
    """Breaks if what was written is not loaded again and compared."""
    load = stablehlo.load_exported

    def worse(directory):
        call = load(directory)
        return lambda images: jax.tree.map(lambda x: x + 2e-5, call(images))

    monkeypatch.setattr(stablehlo, "load_exported", worse)
    output = tmp_path / "program"
    arguments = ["--workdir", str(saved), "--to=stablehlo", f"--out={output}"]
    assert export.main(arguments) == 2
    assert "probabilities" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_all_arrays_in_one_file(saved, live):
    export.main(["--workdir", str(saved), "--to=npz"])
    path = saved / "export" / "npz" / stablehlo.PLAIN_ARRAYS
    flat = traverse_util.flatten_dict(live.arrays, sep="/")
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays.files) == set(flat)
        for name, array in flat.items():
            np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert (path.parent / stablehlo.DESCRIPTION).is_file()


def test_the_towers_of_a_saved_recognizer(saved, live, tmp_path):
    export.main(["--workdir", str(saved), "--to=hf", f"--out={tmp_path / 'hf'}"])
    sizes, towers = clip_files.load_clip(tmp_path / "hf")
    assert sizes.vision.image_size == SIDE
    jax.tree.map(np.testing.assert_array_equal, towers, live.arrays["towers"])
    assert (tmp_path / "hf" / "vocab.json").is_file()


@pytest.mark.parametrize("size", [(200, 150), (17, 40)])
def test_transformers_sees_the_pixels_and_gives_the_logits(saved, live, tmp_path, size):
    """Breaks if nothing says how a picture becomes pixels, or as for CLIP's own."""
    import transformers

    output = tmp_path / "hf"
    export.main(["--workdir", str(saved), "--to=hf", f"--out={output}"])
    # By Pillow, as here: with torchvision installed, its own resize is the default.
    processor = transformers.CLIPProcessor(
        transformers.CLIPImageProcessorPil.from_pretrained(output),
        transformers.CLIPTokenizer.from_pretrained(output),
    )
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    sentences = ["It is red.", "A jade thing with a smooth and shining surface."]
    inputs = processor(
        text=sentences, images=picture, return_tensors="pt", padding="max_length"
    )
    pixels = jnp.asarray(live.transform(picture)[None])
    expected = transforms.normalize(pixels, live.card.normalization)
    actual = inputs["pixel_values"].numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0)
    model = transformers.CLIPModel.from_pretrained(output)
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.numpy()
    ours = live.embed_images(picture), live.embed_texts(sentences)
    scale = live.arrays["towers"]["params"]["logit_scale"]
    expected = contrastive_logits(*map(jnp.asarray, (*ours, scale)))
    np.testing.assert_allclose(logits, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--workdir=absent", "--to=stablehlo"], "absent"),
        (["--workdir=gs://bucket/run", "--to=npz"], "--out"),
        (["--workdir=SAVED", "--to=vl_ltr"], "--to=stablehlo"),
        (["--workdir=LINEAR", "--to=vl_ltr"], "--to=stablehlo"),
        (["--workdir=SAVED", "--to=npz", "--out=SAVED"], "SAVED"),
        (["--workdir=SAVED", "--to=onnx"], "onnx"),
    ],
)
def test_an_impossible_export_ends_with_two(
    saved, tmp_path, capsys, monkeypatch, arguments, name
):
    monkeypatch.chdir(tmp_path)
    linear = tmp_path / "linear"
    small_recognizer.make("linear").save(linear)
    for word, path in (("SAVED", str(saved)), ("LINEAR", str(linear))):
        arguments = [argument.replace(word, path) for argument in arguments]
        name = name.replace(word, path)
    try:
        code = export.main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert name in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["linear"]


def test_an_lgr_without_text_tower_has_no_clip_to_write(tmp_path, capsys):
    recognizer = small_recognizer.make()
    del recognizer.arrays["towers"]["params"]["text"]
    recognizer.save(tmp_path / "saved")
    assert export.main(["--workdir", str(tmp_path / "saved"), "--to=hf"]) == 2
    assert "text tower" in capsys.readouterr().err
    export.main(["--workdir", str(tmp_path / "saved"), "--to=vl_ltr"])
    output = tmp_path / "saved" / "export" / "vl_ltr"
    assert (output / convert.LGR_FILE).is_file()


def test_another_mean_or_resize_is_refused_or_named(tmp_path, capsys):
    """Breaks if another mean is dropped: the authors' code has CLIP's.

    Breaks too if open_clip resizes to the crop's side without a word.
    """
    original, half = small_recognizer.make(), ((0.5,) * 3, (0.25,) * 3)
    card = dataclasses.replace(original.card, normalization=half)
    source = initial.model_source("tiny_clip")
    recognizer = Recognizer(card, original.arrays, tokenizer=lambda: source)
    recognizer.save(tmp_path / "saved")
    shorter_side = str(int(256 / 224 * SIDE))
    for form, code, word in (
        ("vl_ltr", 2, "0.25"),
        ("openai", 0, shorter_side),
        ("hf", 0, ""),
    ):
        arguments = ["--workdir", str(tmp_path / "saved"), f"--to={form}"]
        assert export.main(arguments) == code
        errors = capsys.readouterr().err
        assert word in errors and bool(word) == bool(errors)
