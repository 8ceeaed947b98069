"""All readers, and the files of each that may be damaged."""

from damage.data_readers import DATA_READERS
from damage.model_readers import MODEL_READERS
from damage.run_readers import RUN_READERS

READERS = {**DATA_READERS, **MODEL_READERS, **RUN_READERS}
CASES = [(name, files) for name, reader in READERS.items() for files in reader.files]
