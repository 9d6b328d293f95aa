"""Every error that vitprune raises on purpose.

All of them mean that the input, not the program, is wrong. A message names the value, the key or file it came from,
and what to do next; the commands print it as one line and exit with status 1.

    VitpruneError
    ├── ConfigError      a parameter is missing, unknown, of the wrong type, or impossible
    ├── DataError        images, archives or packed arrays cannot be used
    │   └── DownloadError    a source cannot be fetched (credentials, network, checksum)
    ├── StorageError     a file or folder cannot be written
    ├── CheckpointError  a saved model or circuit is missing, broken, or belongs to something else
    ├── PretrainedError  a pretrained model cannot be had, or is none that a ViT of ours can be
    ├── CircuitError     a graph, circuit or search was asked for something it cannot do
    ├── ExportError      a model cannot be written for another runtime, or such a file cannot be run
    ├── PruningError     no model as small or as fast as that can be made
    ├── TrainingError    training cannot go on (a loss that is not finite, no images)
    └── MeasurementError a figure was asked for that could not be trusted
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
    """A file or folder cannot be written."""


class CheckpointError(VitpruneError):
    """A saved model or circuit is missing, broken, or belongs to something else."""


class PretrainedError(VitpruneError):
    """A pretrained model cannot be had, or is none that a ViT of ours can be."""


class CircuitError(VitpruneError):
    """A graph, circuit or search was asked for something it cannot do."""


class PruningError(VitpruneError):
    """No model as small or as fast as that can be made."""


class ExportError(VitpruneError):
    """A model cannot be written for another runtime, or such a file cannot be run."""


class TrainingError(VitpruneError):
    """Training cannot go on."""


class MeasurementError(VitpruneError):
    """A figure was asked for that could not be trusted."""
