"""The authors' losses in golden files."""

from worlds import golden
from worlds.golden import close

__all__ = ["close"]

CASES = golden.load("losses/cases.json")
FORMS = {"logits": "full", "logits_kl": "kl"}
GOLDENS = [golden.load(f"losses/{name}") for name in ("losses.npz", "losses_f64.npz")]
