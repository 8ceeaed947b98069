"""python -m vl_ltr_jax.models.port; the command is vl_ltr_jax.commands.port."""

from vl_ltr_jax.commands import port

if __name__ == "__main__":
    port.run()
