"""python -m vl_ltr_jax.export; the command is vl_ltr_jax.commands.export."""

from vl_ltr_jax.commands import export

if __name__ == "__main__":
    export.run()
