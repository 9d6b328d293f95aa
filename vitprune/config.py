"""``params.yaml`` as typed, frozen sections.

The file is read once by ``load_params``. Every key must be there and no other may be; whatever cannot be used is
refused with the key's full name. There are no defaults here on purpose: what a run did is what its params file says.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vitprune.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MixingAlpha = Annotated[float, Field(ge=0, le=100)]


def _warm_up_message(section: str, warmup_epochs: float, epochs: int) -> str:
    return f"{section}.warmup_epochs ({warmup_epochs}) must be less than {section}.epochs ({epochs})"


class Section(BaseModel):
    """Base of every part of the params: immutable, no unknown keys, no silent conversion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataParams(Section):
    """Where the images come from and the form they take."""

    source: Literal["digits", "fashion-mnist", "kaggle", "folder", "archive"]
    path: str | None
    kaggle_handle: str
    image_size: Positive
    channels: Literal[1, 3]

    @model_validator(mode="after")
    def _local_sources_need_a_path(self) -> DataParams:
        if self.source in ("folder", "archive") and not self.path:
            raise ValueError(
                f"data.path is missing: with data.source {self.source!r} it names the {self.source} to read"
            )
        return self


class CleanParams(Section):
    """How images are audited, resized and split."""

    resize: Literal["crop", "stretch"]
    val_fraction: Share
    test_fraction: Share
    seed: Seed
    max_dropped_fraction: Fraction
    empty_classes: Literal["error", "drop"]

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> CleanParams:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"clean.val_fraction ({self.val_fraction}) and clean.test_fraction ({self.test_fraction}) "
                "leave nothing to train on: their sum must be below 1"
            )
        return self


class ModelParams(Section):
    """Shape of the Vision Transformer, and what it starts from; image size, channels and classes come from the data."""

    pretrained: str | None
    pretrained_path: str | None
    patch_size: Positive
    patch_embedding: Literal["linear", "conv", "shifted"]
    positions: Literal["learned", "sincos"]
    pooling: Literal["class", "mean"]
    d_model: Positive
    num_layers: Positive
    num_heads: Positive
    d_mlp: Positive
    dropout: Share
    drop_path: Share

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> ModelParams:
        if self.d_model % self.num_heads:
            raise ValueError(f"model.d_model ({self.d_model}) is not divisible by model.num_heads ({self.num_heads})")
        return self

    @model_validator(mode="after")
    def _the_embedding_fits_the_sizes(self) -> ModelParams:
        if self.positions == "sincos" and self.d_model % 4:
            raise ValueError(
                f"model.d_model ({self.d_model}) is not divisible by 4, as model.positions sincos need it: half of it "
                "is for rows and half for columns, each in sines and cosines"
            )
        if self.patch_embedding == "shifted" and self.patch_size == 1:
            raise ValueError(
                "model.patch_size 1 has no half to shift by: model.patch_embedding shifted needs at least 2"
            )
        return self

    @model_validator(mode="after")
    def _pretrained_weights_have_a_name(self) -> ModelParams:
        if self.pretrained is not None and not re.fullmatch(r"(timm|torchvision)/[\w.]+", self.pretrained):
            raise ValueError(
                "model.pretrained must be null, timm/NAME or torchvision/NAME, such as timm/vit_tiny_patch16_224, "
                f"got {self.pretrained!r}"
            )
        if self.pretrained is None and self.pretrained_path is not None:
            raise ValueError(
                f"model.pretrained is missing: with model.pretrained_path ({self.pretrained_path}) it names the model "
                "whose weights that file holds"
            )
        return self


class AugmentParams(Section):
    """Augmentation of training batches; 0 (1 for ``crop_scale_min``) switches a part off."""

    horizontal_flip: Fraction
    crop_scale_min: Annotated[float, Field(gt=0, le=1)]
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    policy: Literal["randaugment", "trivialaugment"] | None
    policy_magnitude: Annotated[int, Field(ge=0, le=30)]
    noise_std: NonNegative
    erasing: Fraction
    mixup_alpha: MixingAlpha
    cutmix_alpha: MixingAlpha


class DistillationParams(Section):
    """What a student learns from a teacher; ``weight`` 0 and ``feature_weight`` 0 leave the teacher out."""

    weight: Fraction
    temperature: Annotated[float, Field(gt=0)]
    hard: bool
    feature_weight: NonNegative

    @property
    def is_on(self) -> bool:
        """Whether the teacher is asked at all."""
        return self.weight > 0 or self.feature_weight > 0


class TrainParams(Section):
    """Optimisation of the baseline; fine-tuning shares all of it but its length and learning rate."""

    epochs: Positive
    batch_size: Positive
    optimizer: Literal["adamw", "muon"]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_epochs: NonNegative
    weight_decay: NonNegative
    label_smoothing: Share
    clip_norm: Annotated[float, Field(gt=0)]
    compile: bool
    ema_decay: Share | None
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    teacher: str | None
    distillation: DistillationParams
    augment: AugmentParams

    @model_validator(mode="after")
    def _warm_up_ends(self) -> TrainParams:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(_warm_up_message("train", self.warmup_epochs, self.epochs))
        return self


class AcdcParams(Section):
    """Circuit discovery: what is searched, on which images, and what counts as not mattering."""

    method: Literal["acdc", "eap", "eap-ig", "hybrid", "activation", "random"]
    tau: NonNegative
    num_edges: Positive | None
    metric: Literal["kl", "cross-entropy", "logit-difference", "accuracy"]
    granularity: Literal["edge", "node", "node-edge"]
    ablation: Literal["mean", "zero", "resample", "noise"]
    noise_std: Annotated[float, Field(gt=0)]
    steps: Positive
    split_qkv: bool
    mlp_groups: Positive
    num_images: Positive
    num_reference_images: Positive
    batch_size: Positive | None
    seed: Seed

    @model_validator(mode="after")
    def _the_metric_suits_the_method(self) -> AcdcParams:
        if self.method == "eap" and self.metric == "kl":
            raise ValueError(
                "acdc.metric kl does not suit acdc.method eap: KL(full ‖ circuit) is least at the full model, so that "
                "its gradient there is zero; set acdc.metric to cross-entropy or logit-difference, or use eap-ig"
            )
        if self.method in ("eap", "eap-ig", "hybrid") and self.metric == "accuracy":
            raise ValueError(f"acdc.metric accuracy does not suit acdc.method {self.method}: it has no gradient")
        if self.method in ("acdc", "hybrid") and self.num_edges is not None:
            raise ValueError(
                f"acdc.num_edges ({self.num_edges}) is for methods that rank edges; {self.method} goes by acdc.tau: "
                "set acdc.num_edges to null"
            )
        return self


class PruneParams(Section):
    """How small the compact model becomes: by the circuit alone, or by latency and KL."""

    target_speedup: Annotated[float, Field(gt=1)] | None
    target_kl: Annotated[float, Field(gt=0)] | None
    group_size: Positive
    batch_size: Positive
    device: str | None
    warmup: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=5)]

    @model_validator(mode="after")
    def _one_target(self) -> PruneParams:
        if self.target_speedup is not None and self.target_kl is not None:
            raise ValueError(
                f"prune.target_speedup ({self.target_speedup}) and prune.target_kl ({self.target_kl}) exclude each "
                "other: set one of them to null"
            )
        return self

    @property
    def has_target(self) -> bool:
        """Whether latency decides, and not the circuit alone."""
        return self.target_speedup is not None or self.target_kl is not None


class FinetuneParams(Section):
    """Recovery after pruning, the baseline as teacher; the control is trained for as long."""

    epochs: Positive
    rounds: Positive
    scope: Literal["all", "cut"]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_epochs: NonNegative
    distillation: DistillationParams

    @model_validator(mode="after")
    def _warm_up_ends(self) -> FinetuneParams:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(_warm_up_message("finetune", self.warmup_epochs, self.epochs))
        if self.warmup_epochs >= self.epochs // self.rounds:
            raise ValueError(
                f"finetune.warmup_epochs ({self.warmup_epochs}) must be less than the epochs of a round: "
                f"finetune.epochs ({self.epochs}) are shared by finetune.rounds ({self.rounds})"
            )
        return self

    def of_round(self, number: int) -> FinetuneParams:
        """The same for one of the rounds, from 1 to ``rounds``, which share the epochs."""
        epochs = self.epochs * number // self.rounds - self.epochs * (number - 1) // self.rounds
        return self.model_copy(update={"epochs": epochs, "rounds": 1})


class EvaluateParams(Section):
    """Evaluation and the timing protocol."""

    batch_size: Positive
    timing_batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    timing_warmup: Annotated[int, Field(ge=1)]
    timing_rounds: Annotated[int, Field(ge=5)]


class ComputeParams(Section):
    """Where and how the arithmetic runs; ``threads: null`` leaves the number, of each process, to PyTorch."""

    device: str
    processes: Annotated[int, Field(gt=0, le=1024)]
    threads: Annotated[int, Field(gt=0, le=1024)] | None
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    seed: Seed


class Params(Section):
    """The whole of ``params.yaml``."""

    data: DataParams
    clean: CleanParams
    model: ModelParams
    train: TrainParams
    acdc: AcdcParams
    prune: PruneParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _patches_tile_the_image(self) -> Params:
        if self.data.image_size % self.model.patch_size:
            raise ValueError(
                f"data.image_size ({self.data.image_size}) is not divisible by "
                f"model.patch_size ({self.model.patch_size})"
            )
        if self.acdc.mlp_groups > self.model.d_mlp:
            raise ValueError(
                f"acdc.mlp_groups ({self.acdc.mlp_groups}) is more than model.d_mlp ({self.model.d_mlp}) neurons"
            )
        return self

    @model_validator(mode="after")
    def _rounds_have_a_target(self) -> Params:
        if self.finetune.rounds > 1 and self.prune.target_speedup is None:
            raise ValueError(
                f"finetune.rounds ({self.finetune.rounds}) needs a speed to go to in so many steps: set "
                "prune.target_speedup, or finetune.rounds to 1"
            )
        return self

    def prune_in_round(self, number: int) -> PruneParams:
        """How far pruning goes before round ``number`` of fine-tuning: of N rounds, each is as large a factor."""
        if self.prune.target_speedup is None:
            return self.prune
        return self.prune.model_copy(
            update={"target_speedup": self.prune.target_speedup ** (number / self.finetune.rounds)}
        )


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2, so that ``1e-05`` (as DVC writes it) is a number and not a string.

    A key that stands twice is refused, where YAML's own reader would take the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises ConfigError that names the file and, where there is one, the key and its value.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; copy one from profiles/ or give --params") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections such as data:, model: and acdc:, found {content!r}")
    return parse_params(content, where=str(path))


def parse_params(content: dict[str, Any], *, where: str = "params") -> Params:
    """Check params that are already loaded; ``where`` opens the message of the ConfigError that may be raised."""
    try:
        # Through JSON, because strict validation of Python objects refuses a list where a tuple is meant.
        return Params.model_validate_json(json.dumps(_with_text_keys(content), default=str))
    except ValidationError as invalid:
        first, *others = (_sentence(dict(error)) for error in invalid.errors())
        more = f" (and {len(others)} more: {'; '.join(others)})" if others else ""
        raise ConfigError(f"{where}: {first}{more}") from None


def _with_text_keys(content: Any) -> Any:
    """The same content, its keys as text: YAML also has numbers and dates as keys, JSON has not."""
    if isinstance(content, dict):
        return {str(key): _with_text_keys(value) for key, value in content.items()}
    return content


def _sentence(error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"{key} is not a known parameter"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            message = error["msg"].removeprefix("Input should be ")
            return f"{key} must be {message}, got {error['input']!r}"
