"""python -m vl_ltr_jax.compare; the command is vl_ltr_jax.commands.compare."""

from vl_ltr_jax.commands import compare

if __name__ == "__main__":
    compare.run()
