"""Made-up results of a run: arguments of `gather` for tests of the page."""

import numpy as np
from PIL import Image

from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.recognizer.predictions import AttendedSentence, Explanation, Prediction
from vl_ltr_jax.report.page.gather import Method
from vl_ltr_jax.report.page.sentences import Selection

HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "שועל אדום <b>",
    "\u202eright to left override 'quoted'",
    "🦊 & 狐 $x_1$ {{ 7 * 7 }} </title></style></svg>",
    "javascript:alert(1)//` ${window.hacked = 3}",
)
COUNTS = (300, 120, 60, 20, 5, 2)


def head(top1, shots, top5=95.0, prediction="argmax"):
    groups = dict(zip(("many", "medium", "few"), shots, strict=True))
    return {
        "top1": top1,
        "top5": top5,
        "class_mean": 68.5,
        "prediction": prediction,
        "shots": {"standard": groups, "vl_ltr": {**groups, "few": 12.5}},
    }


def results(**changes):
    return {
        "test": {
            "lgr": head(71.25, (85.5, 76.25, 56.5), prediction="mixture"),
            "zero_shot": head(21.5, (26.4, 77.1, None)),
        },
        "val": {"lgr": head(70.0, (80.0, 70.0, 60.0))},
        "data": {
            "name": "data <i>of</i> 'mine'",
            "num_classes": len(COUNTS),
            "train_images": sum(COUNTS),
            "val_images": 12,
            "test_images": 60,
            "largest_class": max(COUNTS),
            "smallest_class": min(COUNTS),
            "sentences": 36,
        },
        "cost": {
            "images_seen": 53760,
            "seconds": 75.0,
            "stages": {
                "pretrain": {"images_seen": 53760, "seconds": 60.0},
                "evaluate": {"images_seen": 0, "seconds": 15.0},
            },
        },
        "versions": {"vl_ltr_jax": "0.1.0", "commit": "<unknown>"},
        **changes,
    }


def ranked(num_classes=6, per_class=10):
    """Ranks classes; of class l, l images are taken for the class before."""
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), per_class)
    place = np.tile(np.arange(per_class), num_classes)
    answers = np.where(place < labels, labels - 1, labels)
    ranks = np.arange(5)
    classes = ((answers[:, None] + ranks) % num_classes).astype(np.int32)
    probabilities = np.broadcast_to(np.float32(0.9) ** (1 + ranks), classes.shape)
    margins = np.where(answers != labels, -1.0 - place, 1.0 + place)
    return Ranking(labels, classes, probabilities, margins.astype(np.float32))


def selection(names=HOSTILE, per_class=6, num_anchors=2):
    """Sentence j of class l has L_lin j + l / 8; the last class has no images."""
    labels = np.repeat(np.arange(len(names), dtype=np.int32), per_class)
    place = np.tile(np.arange(per_class), len(names))
    scores = (place + labels / 8).astype(np.float32)
    scores[labels == len(names) - 1] = np.inf
    return Selection(
        sentences=[
            f"Sentence {j} of {name}" for name in names for j in range(per_class)
        ],
        labels=labels,
        scores=scores,
        indices=np.arange(len(names))[:, None] * per_class + np.arange(num_anchors),
        padding=np.zeros((len(names), num_anchors), bool),
    )


def curves(num_points=30):
    steps = np.arange(1, num_points + 1) * 10
    falling = 4 * np.exp(-steps / steps[-1])
    terms = ("total", "contrastive", "contrastive_image", "distillation")
    return {
        "pretrain": {
            **{f"loss/{term}": (steps, falling + n) for n, term in enumerate(terms)},
            "accuracy/batch_top1": (steps, 100 - 10 * falling),
            "learning_rate": (steps, falling * 1e-4),
            "throughput/images_per_second": (steps, 300 + falling),
        }
    }


def explained(names=HOSTILE):
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    sentences = (
        AttendedSentence(f"It looks like {names[0]}", 0.625, 0.31),
        AttendedSentence("It flies.", 0.25, 0.1),
    )
    prediction = Prediction((names[0], names[1]), (0.75, 0.125), (0, 1))
    first = Explanation(prediction, 0.5, 0.875, sentences)
    second = Explanation(prediction, None, None, ())
    large = Image.new("RGB", (400, 300))
    return [(Image.fromarray(pixels), 0, first), (large, 2, second)]


def arguments(**changes):
    """Everything that `gather` takes."""
    return {
        "results": results(),
        "configuration": {
            "method": "vl_ltr",
            "model": {"backbone": "ViT-tiny", "image_size": 32},
            "data": {"root": "/home/<me>/", "context_length": 77, "flown": True},
            "seed": 3,
        },
        "method": Method(f"VL-LTR <&> {'long ' * 10}", "lgr"),
        "class_names": HOSTILE,
        "train_counts": np.array(COUNTS),
        "rankings": {"test": ranked(), "val": ranked(per_class=2)},
        "curves": curves(),
        "selection": selection(),
        "explained": explained(),
        **changes,
    }
