"""python -m vl_ltr_jax.predict; the command is vl_ltr_jax.commands.predict."""

from vl_ltr_jax.commands import predict

if __name__ == "__main__":
    predict.run()
