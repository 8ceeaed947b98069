"""VL-LTR's mathematics: pure functions of arrays."""
