"""``params.yaml`` as one typed, frozen object.

The file is read once by ``load_params``. Every key must be there and no other may be; whatever cannot be used is
refused with the key's full name. Each section is defined beside the component that it is for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from vitprune.circuit.methods import check_acdc_options
from vitprune.circuit.options import AcdcOptions
from vitprune.data.options import CleanOptions, DataOptions
from vitprune.errors import ConfigError
from vitprune.evaluation.options import EvaluateOptions
from vitprune.model.options import ModelOptions
from vitprune.options import Options, Seed
from vitprune.pruning.options import PruneOptions
from vitprune.training.options import FinetuneOptions, TrainOptions


class ComputeOptions(Options):
    """Where and how the arithmetic runs; ``threads: null`` leaves the number, of each process, to PyTorch."""

    device: str
    processes: Annotated[int, Field(gt=0, le=1024)]
    threads: Annotated[int, Field(gt=0, le=1024)] | None
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    seed: Seed


class Params(Options):
    """The whole of ``params.yaml``."""

    data: DataOptions
    clean: CleanOptions
    model: ModelOptions
    train: TrainOptions
    acdc: AcdcOptions
    prune: PruneOptions
    finetune: FinetuneOptions
    evaluate: EvaluateOptions
    compute: ComputeOptions

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
    def _the_discovery_method_can_do_that(self) -> Params:
        check_acdc_options(self.acdc)
        return self

    @model_validator(mode="after")
    def _rounds_have_a_target(self) -> Params:
        if self.finetune.rounds > 1 and self.prune.target_speedup is None:
            raise ValueError(
                f"finetune.rounds ({self.finetune.rounds}) needs a speed to go to in so many steps: set "
                "prune.target_speedup, or finetune.rounds to 1"
            )
        return self

    def prune_in_round(self, number: int) -> PruneOptions:
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
