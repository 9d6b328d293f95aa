"""What the evaluate command measures, model by model."""

from vitprune.evaluation.models import MODELS, UPGRADED_BASELINE_PRUNED
from vitprune.evaluation.summary import model_metrics as describe
from vitprune.evaluation.timing import time_pipeline as time_all

FOLDERS = {model.name: model.folder for model in MODELS}
FINAL = UPGRADED_BASELINE_PRUNED.name

__all__ = ["FINAL", "FOLDERS", "describe", "time_all"]
