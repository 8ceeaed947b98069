"""Golden arrays and texts of the authors' code, and a comparison with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> Any:
    """Returns the content of a JSON or NumPy file, such as `lgr/small.npz`."""
    path = GOLDEN / name
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return np.load(path)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Asserts that arrays are equal up to a part of the largest magnitude."""
    scale = max(np.abs(expected).max(), 1e-2)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


LOSS_CASES = load("losses/cases.json")
LOSS_FORMS = {"logits": "full", "logits_kl": "kl"}
LOSSES = [load(f"losses/{name}") for name in ("losses.npz", "losses_f64.npz")]
