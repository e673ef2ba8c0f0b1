"""docs/settings.md says what the definitions say."""

import importlib.util
import re
from pathlib import Path

from haa_peft.commands.adapt import parse_arguments

DOCS = Path(__file__).parents[1] / "docs"


def load():
    spec = importlib.util.spec_from_file_location("settings_page", DOCS / "settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    written = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert written == load().page(), "run `python docs/settings.py`"


def test_defaults_on_the_page_are_those_of_the_parser():
    args = vars(parse_arguments(None, "", []))
    rows = re.findall(r"^\| `--([\w-]+)` \| `\w+` \| `([^`]+)`", (DOCS / "settings.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for flag, shown in rows:
        assert str(args[flag.replace("-", "_")]).lower() == shown, flag
