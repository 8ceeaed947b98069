"""python -m vl_ltr_jax.data.tfds_builders; the command is commands.prepare_data."""

from vl_ltr_jax.commands import prepare_data

if __name__ == "__main__":
    prepare_data.run()
