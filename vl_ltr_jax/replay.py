"""python -m vl_ltr_jax.replay; the command is vl_ltr_jax.commands.replay."""

from vl_ltr_jax.commands import replay

if __name__ == "__main__":
    replay.run()
