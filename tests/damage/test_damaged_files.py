"""A damaged file is read as something valid, or the error names it."""

import contextlib
import functools
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damage.readers import CASES, READERS
from vl_ltr_jax.runtime.errors import UserError
from worlds.file_damage import DAMAGES, examples


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Folders of sound files, and what is in them, by the name of the reader."""

    @functools.cache
    def write(name):
        reader, folder = READERS[name], tmp_path_factory.mktemp("sound") / "files"
        folder.mkdir()
        reader.write(folder)
        return folder

    @functools.cache
    def value(name, file):
        return READERS[name].open(write(name), file)

    return write, value


@contextlib.contextmanager
def copied(folder):
    """A copy of a folder, of which files may be replaced."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy, copy_function=os.link)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def open_or_refuse(reader, folder, file):
    """Returns the value, or None if the reader raises an error that names the file."""
    try:
        return reader.open(folder, file)
    except UserError as error:
        message, parent = str(error), str(file.parent.relative_to(folder))
        names = {file.name, str(folder), parent} - {"."}
        assert any(name in message for name in names), message
        assert len(message) < 20_000
        return None


@pytest.mark.parametrize(("name", "pattern"), CASES)
def test_sound_files_are_read(sound, name, pattern):
    write, value = sound
    files = list(write(name).glob(pattern))
    assert files
    for file in files:
        READERS[name].check(value(name, file), value(name, file))


@pytest.mark.parametrize(("name", "pattern"), CASES)
@examples(30)
@given(data=st.data())
def test_a_damaged_file_is_read_or_named(sound, name, pattern, data):
    write, value = sound
    reader, folder = READERS[name], write(name)
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    file = data.draw(st.sampled_from(files))
    damage = DAMAGES[reader.files[pattern]](file.read_bytes())
    content = data.draw(st.one_of(damage, damage, damage, damage, st.none()))
    with copied(folder) as copy:
        damaged = copy / file.relative_to(folder)
        damaged.unlink()
        if content is not None:
            damaged.write_bytes(content)
        opened = open_or_refuse(reader, copy, damaged)
        if opened is not None:
            reader.check(
                opened, None if file.name == "float tiff" else value(name, file)
            )
