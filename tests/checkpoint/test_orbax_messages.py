from vl_ltr_jax.checkpoint.orbax_messages import first_line, reason


def test_the_cause_of_an_unreadable_array_is_named():
    details = "<bound method pybind11_detail_function_record_v1 of <x>>"
    error = Exception(f"Encountered error. See full TensorStore details: {details}")
    assert first_line(error) == "Exception: Encountered error"
    error.__cause__ = ValueError("DATA_LOSS: torn [tensorstore_spec='{}']")
    assert first_line(error) == "ValueError: DATA_LOSS: torn"


def test_the_words_of_the_operating_system_go_first():
    error = ValueError("ABORTED: file 4: No space left on device [os_error_code='28']")
    assert reason(error) == "No space left on device"
