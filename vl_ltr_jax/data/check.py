"""python -m vl_ltr_jax.data.check; the command is vl_ltr_jax.commands.check_data."""

from vl_ltr_jax.commands import check_data

if __name__ == "__main__":
    check_data.run()
