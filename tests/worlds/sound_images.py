"""Small pictures as files of every kind that is read."""

import io

import numpy as np
from PIL import Image

NOISE = np.random.default_rng(0).integers(0, 256, (37, 53, 4), np.uint8)
RGB = Image.fromarray(NOISE[..., :3])
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def several(kind, **options):
    frames = [RGB.rotate(90 * turn) for turn in (1, 2)]
    return encoded(RGB, kind, save_all=True, append_images=frames, **options)


SIXTEEN = Image.fromarray(NOISE[..., :2].copy().view(np.uint16)[..., 0])
SOUND = {
    "jpeg": encoded(RGB, "JPEG", quality=80),
    "progressive": encoded(RGB, "JPEG", progressive=True),
    "grey jpeg": encoded(RGB.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(RGB.convert("CMYK"), "JPEG"),
    "turned jpeg": encoded(RGB, "JPEG", exif=TURNED),
    "several jpegs": several("MPO"),
    "png": encoded(RGB, "PNG"),
    "palette png": encoded(RGB.quantize(16), "PNG", transparency=bytes(range(16))),
    "16-bit png": encoded(SIXTEEN, "PNG"),
    "alpha png": encoded(Image.fromarray(NOISE), "PNG"),
    "moving png": several("PNG"),
    "one-bit png": encoded(RGB.convert("1"), "PNG"),
    "webp": encoded(RGB, "WEBP", quality=50),
    "moving webp": several("WEBP"),
    "moving gif": several("GIF"),
    "tiff": encoded(RGB, "TIFF"),
    "packed tiff": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "cmyk tiff": encoded(RGB.convert("CMYK"), "TIFF"),
    "float tiff": encoded(RGB.convert("F"), "TIFF"),
    "jpeg 2000": encoded(RGB, "JPEG2000"),
    "bmp": encoded(RGB, "BMP"),
    "avif": encoded(RGB, "AVIF"),
}


def picture(path, seed=0, size=(24, 20)):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def photograph(size=(150, 230), mode="RGB", seed=0, **options):
    """Noise with large shapes in it, so that colours are worth filtering."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 7, 3), np.uint8)
    large = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-40, 40, (size[1], size[0], 3))
    pixels = (np.asarray(large) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()
