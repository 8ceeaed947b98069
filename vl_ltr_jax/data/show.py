"""python -m vl_ltr_jax.data.show; the command is vl_ltr_jax.commands.show_data."""

from vl_ltr_jax.commands import show_data

if __name__ == "__main__":
    show_data.run()
