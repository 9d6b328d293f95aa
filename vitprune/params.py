"""``params.yaml`` as one typed, frozen object, and profiles that change some of its values.

``load_params`` reads the file once, in YAML 1.2. Every key must be there and no other may be; whatever cannot be used
is refused with the key's full name. Each section is defined beside the component that it is for.
"""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator
from ruamel.yaml import YAML

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
MOST_BYTES = 2**16
MOST_BRACKETS = 1000
MOST_VALUES = 10_000
DEEPEST = 20
"""Params files are far smaller. Reading larger ones may take minutes, and an alias may stand for a million values."""
MOST_SENTENCES = 20
LONGEST = 400
"""What is wrong with a params file is said in so many sentences at most, of so many characters."""
LARGEST_NUMBER = 10**100
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
    try:
        _check_values(content, where)
        content = _without_former_names(content, where)
        # Through JSON, because strict validation of Python objects refuses a list where a tuple is meant.
        return Params.model_validate_json(json.dumps(content))
    except ValidationError as invalid:
        first, *others = (_shortened(_sentence(dict(error))) for error in invalid.errors())
        more = f" (and {len(others)} more: {'; '.join(others[:MOST_SENTENCES])})" if others else ""
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
    expected = dict(_leaves(_read_yaml(params, YAML(typ="safe", pure=True))))
    changed = []
    for key, value in _leaves(_read_yaml(profile, YAML(typ="safe", pure=True))):
        *sections, name = key.split(".")
        section: Any = content
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            raise ConfigError(f"{profile}: {key} is not a parameter of {params}{_renamed(key)}")
        expected[key] = value
        if section[name] != value:
            changed.append(key)
            section[name] = value
    text = StringIO()
    yaml.dump(content, text)
    where = f"{params} with {profile}"
    written = _parse_yaml(text.getvalue(), YAML(typ="safe", pure=True), where)
    parse_params(written, where=where)
    if dict(_leaves(written)) != expected:
        raise ConfigError(
            f"{params}: has aliases (*), by which a value of {profile} would change others too; write them out"
        )
    return text.getvalue(), changed


def _read_yaml(path: Path, yaml: YAML) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a params file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as UTF-8 ({error})") from error
    if len(text.encode()) > MOST_BYTES or text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ConfigError(
            f"{path}: too large for a params file (over {MOST_BYTES // 2**10} KiB, or over {MOST_BRACKETS} brackets)"
        )
    content = _parse_yaml(text, yaml, str(path))
    if not isinstance(content, dict):
        # Never a whole list: its aliases may stand for a million values.
        found = "a list" if isinstance(content, list) else _shortened(repr(content))
        raise ConfigError(f"{path}: expected sections such as data:, model: and acdc:, found {found}")
    _check_values(content, str(path))
    return content


def _parse_yaml(text: str, yaml: YAML, where: str) -> Any:
    try:
        return yaml.load(text)
    except Exception as error:  # ruamel raises whatever comes up: also KeyError, for !!bool without a value
        raise ConfigError(f"{where}: not valid YAML: {_shortened(' '.join(str(error).split()))}") from error


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested sections."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_values(content: Any, where: str) -> None:
    """Raise ConfigError unless these are sections and lists of numbers, text and null, and not too many."""
    waiting, seen = [("", content, 0)], 0
    while waiting:
        key, value, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            raise ConfigError(
                f"{where}: holds more values, or more nested ones, than any params have; look for aliases (*)"
            )
        if isinstance(value, dict):
            for name in value:
                if not isinstance(name, str):
                    raise ConfigError(f"{where}: {reprlib.repr(name)} is no name of a parameter; names are text")
            waiting += [(f"{key}.{name}".lstrip("."), inner, depth + 1) for name, inner in reversed([*value.items()])]
        elif isinstance(value, list):
            waiting += [(f"{key}.{number}", inner, depth + 1) for number, inner in reversed([*enumerate(value)])]
        elif fault := _fault_of(value):
            raise ConfigError(f"{where}: {_shortened(key)} {fault}")


def _fault_of(value: Any) -> str:
    """Why a value can be no parameter, or nothing."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            return "holds half a character, which is no text; write it again"
        return "holds a zero byte, which no text may have; write it again" if "\0" in value else ""
    if isinstance(value, int):
        return "is too large a number" if abs(value) > LARGEST_NUMBER else ""
    if value is None or isinstance(value, float):
        return ""
    kind, shown = type(value).__name__, _shortened(reprlib.repr(value))
    return f"is of the kind {kind}, which no parameter is ({shown}); write text in quotes"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


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
