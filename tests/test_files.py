import json

import pytest

from haa_peft.commands.outputs import check_report, write_report
from haa_peft.errors import InputError


def test_a_report_replaces_one_of_its_kind_alone(tmp_path):
    path = tmp_path / "report.json"
    check_report(path, "evaluate")
    assert write_report(path, "evaluate", {"rows": [float("nan")]}) == f"wrote a report of evaluate: {path}"
    assert json.loads(path.read_text()) == {"kind": "evaluate", "rows": [None]}
    check_report(path, "evaluate")
    assert write_report(path, "evaluate", {"rows": []}) == f"replaced the report of evaluate: {path}"
    with pytest.raises(InputError, match="report.json is a report of evaluate, and a report of finetune may"):
        check_report(path, "finetune")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"room": "studio"}', b'{"kind": 3}', b"not JSON"])
def test_no_other_file_is_replaced(content, tmp_path):
    path = tmp_path / "notes.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"notes.json is no report .*; give another name or remove it"):
        check_report(path, "finetune")
    assert path.read_bytes() == content


def test_no_report_is_asked_for():
    check_report(None, "finetune")
