"""What download and clean compute with is apart, so that editing one does not run the other again."""

from pathlib import Path

import pytest

from tests.imports import imports_of

DATA = Path(__file__).parents[2] / "vitprune" / "data"


@pytest.mark.parametrize(("folder", "forbidden"), [("download", "cleaning"), ("cleaning", "download")])
def test_the_folders_of_the_stages_do_not_import_each_other(folder: str, forbidden: str) -> None:
    modules = sorted((DATA / folder).glob("*.py"))
    assert len(modules) > 3
    imported = [name for path in (*modules, *DATA.glob("*.py")) for name, _ in imports_of(path)]
    assert not [name for name in imported if name.startswith(f"vitprune.data.{forbidden}")]
