"""python -m vl_ltr_jax.data.fetch_text; the command is commands.fetch_text."""

from vl_ltr_jax.commands import fetch_text

if __name__ == "__main__":
    fetch_text.run()
