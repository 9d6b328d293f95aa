"""``params.yaml`` as one typed, frozen object, and profiles that change some of its values.

``load_params`` reads the file once, in YAML 1.2. Every key must be there and no other may be; whatever cannot be used
is refused with the key's full name. Each section is defined beside the component that it is for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vitprune.circuit.methods import check_acdc_options
from vitprune.circuit.options import AcdcOptions
from vitprune.core.compute.device import ComputeOptions
from vitprune.core.model.options import ModelOptions
from vitprune.data.options import CleanOptions, DataOptions
from vitprune.errors import ConfigError
from vitprune.evaluation.options import EvaluateOptions
from vitprune.options import Options
from vitprune.pruning.options import PruneOptions
from vitprune.training.options import FinetuneOptions, TrainOptions

logger = logging.getLogger(__name__)

RENAMED = {
    "acdc.steps": "acdc.ig_steps",
    "prune.device": "prune.timing_device",
    "prune.rounds": "prune.timing_rounds",
    "prune.warmup": "prune.timing_warmup",
}
"""Params that had another name in earlier versions."""
NULL = "tag:yaml.org,2002:null"
"""The YAML tag of null, which ruamel would leave out."""


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
                f"finetune.rounds ({self.finetune.rounds}) needs a speed to reach round by round: set "
                "prune.target_speedup, or finetune.rounds to 1"
            )
        return self


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises ConfigError that names the file and, where there is one, the key and its value.
    """
    content = _read_yaml(path, YAML(typ="safe", pure=True))
    return parse_params(content, where=str(path))


def parse_params(content: dict[str, Any], *, where: str = "params") -> Params:
    """Check params that are already loaded; ``where`` opens the message of the ConfigError that may be raised."""
    content = _without_former_names(content, where)
    try:
        # Through JSON, because strict validation of Python objects refuses a list where a tuple is meant.
        return Params.model_validate_json(json.dumps(_with_text_keys(content), default=str))
    except ValidationError as invalid:
        first, *others = (_sentence(dict(error)) for error in invalid.errors())
        more = f" (and {len(others)} more: {'; '.join(others)})" if others else ""
        raise ConfigError(f"{where}: {first}{more}") from None


def apply_profile(params: Path, profile: Path) -> tuple[str, list[str]]:
    """The text of a params file with the values of a profile, and the keys whose value that changes.

    The profile holds only what it changes; comments and all other values of ``params`` stay. Raises ConfigError if one
    of the files cannot be read, the profile has a key that ``params`` lacks, or the result is not valid.
    """
    yaml = YAML()
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL, "null"))
    content = _read_yaml(params, yaml)
    changed = []
    for key, value in _leaves(_read_yaml(profile, YAML(typ="safe", pure=True))):
        *sections, name = key.split(".")
        section: Any = content
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            raise ConfigError(f"{profile}: {key} is not a parameter of {params}{_renamed(key)}")
        if section[name] != value:
            changed.append(key)
            section[name] = value
    parse_params(content, where=f"{params} with {profile}")
    text = StringIO()
    yaml.dump(content, text)
    return text.getvalue(), changed


def _read_yaml(path: Path, yaml: YAML) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a params file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable ({error})") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections such as data:, model: and acdc:, found {content!r}")
    return content


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested sections."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _with_text_keys(content: Any) -> Any:
    """The same content with text as keys: YAML also has numbers and dates as keys, JSON has not."""
    if isinstance(content, dict):
        return {str(key): _with_text_keys(value) for key, value in content.items()}
    return content


def _without_former_names(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The same params but for those that stand under a former name beside the present one, which a warning names."""
    kept = dict(content)
    for former, now in RENAMED.items():
        section, _, former_name = former.partition(".")
        values = kept.get(section)
        if isinstance(values, dict) and {former_name, now.partition(".")[2]} <= values.keys():
            logger.warning("%s: %s is called %s now, which is there too; %s is not read", where, former, now, former)
            kept[section] = {name: value for name, value in values.items() if name != former_name}
    return kept


def _renamed(key: str) -> str:
    return f"; it is called {RENAMED[key]} now" if key in RENAMED else ""


def _sentence(error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"{key} is not a known parameter{_renamed(key)}"
        case "string_pattern_mismatch" if error["loc"][-1] in ("device", "timing_device"):
            return f"{key} must be auto, cpu, cuda, cuda:N or mps, got {error['input']!r}"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            message = error["msg"].removeprefix("Input should be ")
            return f"{key} must be {message}, got {error['input']!r}"
