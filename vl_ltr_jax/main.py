"""python -m vl_ltr_jax.main; the command is vl_ltr_jax.commands.train."""

from vl_ltr_jax.commands import train

if __name__ == "__main__":
    train.run()
