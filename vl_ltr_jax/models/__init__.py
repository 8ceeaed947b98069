"""CLIP's towers, the heads of the second stage, and the port of published weights."""
