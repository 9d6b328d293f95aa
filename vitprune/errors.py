"""Every error that vitprune raises on purpose.

All of them mean that the input is wrong, not the program. A message names the value, the key or file it came from,
and what to do next. The commands print it as one line and exit with status 1.

    VitpruneError
    ├── ConfigError      a parameter is missing, unknown, of the wrong type, or impossible
    ├── DataError        images, archives or packed arrays cannot be used
    │   └── DownloadError    a source cannot be fetched (credentials, network, checksum)
    ├── StorageError     a file or folder cannot be written, or one needed for it cannot be read
    ├── CheckpointError  a saved model, circuit or result is missing, broken, or belongs to something else
    ├── PretrainedError  a pretrained model cannot be found, or does not fit our ViT
    ├── CircuitError     a graph, circuit or search cannot do what it was asked for
    ├── ExportError      a model cannot be exported, or an exported file cannot be run
    ├── PruningError     no model meets the target
    ├── TrainingError    training cannot go on (a loss that is not finite, no images)
    └── MeasurementError a measurement would not be reliable
"""


class VitpruneError(Exception):
    """Base of all errors with a message meant for the user."""


class ConfigError(VitpruneError):
    """A parameter is missing, unknown, of the wrong type, or impossible."""


class DataError(VitpruneError):
    """Images, archives or packed arrays cannot be used."""


class DownloadError(DataError):
    """A source cannot be fetched."""


class StorageError(VitpruneError):
    """A file or folder cannot be written, or one needed for it cannot be read."""


class CheckpointError(VitpruneError):
    """A saved model, circuit or result is missing, broken, or belongs to something else."""


class PretrainedError(VitpruneError):
    """A pretrained model cannot be found, or does not fit our ViT."""


class CircuitError(VitpruneError):
    """A graph, circuit or search cannot do what it was asked for."""


class PruningError(VitpruneError):
    """No model meets the target."""


class ExportError(VitpruneError):
    """A model cannot be exported, or an exported file cannot be run."""


class TrainingError(VitpruneError):
    """Training cannot go on."""


class MeasurementError(VitpruneError):
    """A measurement would not be reliable."""
