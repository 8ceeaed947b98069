"""python -m vl_ltr_jax.preflight; the command is vl_ltr_jax.commands.preflight."""

from vl_ltr_jax.commands import preflight

if __name__ == "__main__":
    preflight.run()
