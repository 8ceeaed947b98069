"""Edits of how commands end, and of what paths mean, for `mutations.py`."""

ERRORS = "vl_ltr_jax/runtime/errors.py"
PATHS = "vl_ltr_jax/storage/paths.py"
ERROR_TESTS = "tests/runtime/test_errors.py"
PATH_TESTS = "tests/storage/test_paths.py"

ENTRY_EDITS = (
    (
        "any ValueError taken for a user's mistake",
        "vl_ltr_jax/commands/exits.py",
        "    except UserError as error:",
        "    except ValueError as error:",
        f"{ERROR_TESTS}::test_a_bug_or_a_failing_disk_keeps_its_traceback",
    ),
    (
        "an absent file taken for a fault of the machine",
        ERRORS,
        "return _of_system(error, _LACKS)",
        "return _of_system(error, _MENDS)",
        f"{ERROR_TESTS}::test_what_a_path_lacks_is_no_fault_of_the_machine",
    ),
    (
        "a checkpoint set aside for want of threads",
        "vl_ltr_jax/checkpoint/manager.py",
        "if fault := errors.lack(error):  # the file may be sound",
        "if fault := None:",
        "tests/checkpoint/test_manager.py::test_want_of_threads_is_no_damage",
    ),
    (
        "keys of faults compared between starts",
        "vl_ltr_jax/run/depends.py",
        '"classifier", "evaluate")',
        '"classifier", "evaluate", "faults")',
        "tests/comparison/test_runs.py::"
        "test_it_goes_on_when_a_key_changes_that_no_stage_depends_on",
    ),
    (
        "a home directory called ~",
        PATHS,
        "return os.path.expanduser(os.fspath(path))",
        "return os.fspath(path)",
        PATH_TESTS,
    ),
    (
        "a data set hashed with its place",
        "vl_ltr_jax/run/inputs.py",
        "        if self.root:\n",
        "        if not self.root:\n",
        f"{PATH_TESTS}::test_a_run_goes_on_from_another_directory_and_with_moved_data",
    ),
)
