"""``vitprune params``: params.yaml with the values of a profile."""

from pathlib import Path
from typing import Annotated

import typer


def params(
    profile: Annotated[str, typer.Option(help="Name of a profile in the folder of profiles, or the path of one.")],
    params: Annotated[Path, typer.Option(help="Params file to change.")] = Path("params.yaml"),
    profiles: Annotated[Path, typer.Option(help="Folder of profiles.")] = Path("profiles"),
) -> None:
    """Put the values of a profile into the params file; all other values and all comments stay."""
    import logging

    from vitprune.errors import ConfigError
    from vitprune.params import apply_profile
    from vitprune.storage import write_text

    path = Path(profile) if profile.endswith((".yaml", ".yml")) else profiles / f"{profile}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in profiles.glob("*.yaml"))) or "none"
        raise ConfigError(f"{path}: no such profile; there are: {names}")
    text, changed = apply_profile(params, path)
    write_text(params, text)
    what = f"changed {', '.join(changed)}" if changed else "no value changed"
    logging.getLogger(__name__).info("%s: profile %s; %s", params, path.stem, what)
