"""Console, wording of messages and event files: what a person sees."""
