"""The authors' losses in golden files, and a comparison with them."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
CASES = json.loads((GOLDEN / "cases.json").read_text())
FORMS = {"logits": "full", "logits_kl": "kl"}
GOLDENS = [np.load(GOLDEN / name) for name in ("losses.npz", "losses_f64.npz")]


def close(actual, expected, tolerance=1e-5):
    scale = max(np.abs(expected).max(), 1e-2)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)
