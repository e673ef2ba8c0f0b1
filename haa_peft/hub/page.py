"""README.md of a repository: what the Hub reads at its top, how to use it, and a table of its adapters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from haa_peft.commands.tables import markdown
from haa_peft.errors import InputError, one_line
from haa_peft.hub.address import Address
from haa_peft.hub.problems import hub
from haa_peft.store.pack import RoomPack

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

LARGEST_PAGE = 2**21
"""Bytes of a README.md that is read."""
MOST_ADAPTERS = 200
"""Whose errors are kept in it."""
COLUMNS = {"edt_s": ("edt_ms", "EDT (ms)", 1000, 1), "c50_db": ("c50_db", "C50 (dB)", 1, 2),
           "t60_percent": ("t60_percent", "T60 (%)", 1, 1)}  # fmt: skip
"""Fields of a card's evaluation: type on the Hub, name, factor and digits."""
LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0",
            "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odbl", "pddl",
            "unknown")  # fmt: skip
"""Of the Hub's identifiers, those that measurements have."""
SEVERAL = "several, see each adapter"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_TABLE = re.compile(r"(<!-- adapters -->\n).*?(<!-- end of adapters -->)", re.DOTALL)
_TEXT = """
# {repository}

Adapters of the xRIR backbone, which fit it to rooms: room impulse responses at any position. Each folder is an adapter
of haa_peft, with its references and geometry, and has a page of its own.

```python
from haa_peft import RoomPredictor

predictor = RoomPredictor.load("{address}")
rirs = predictor.predict([{position}])  # (N, 3) m in room coordinates -> (N, 9600) at 22 050 Hz
```

`haa-peft pull {repository}` stores all of them. The licence is that of the data that they were fitted to.

Mean absolute errors at test positions:

<!-- adapters -->
<!-- end of adapters -->
"""


def make_page(address: Address, packs: Sequence[RoomPack], before: str | None = None) -> str:
    """The page of a repository that gets some adapters.

    Parameters
    ----------
    address : of the repository.
    packs : which come in.
    before : the page as it is; its text stays but for the table, and its metadata but for what these adapters say.

    Raises
    ------
    InputError
        When its metadata cannot be read.
    """
    try:
        card = hub().ModelCard("---\n{}\n---\n" if before is None else before)
        evaluated = list(card.data.eval_results or [])
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{address}: README.md has metadata that cannot be read ({error}); mend it there") from None
    data: ModelCardData = card.data
    cards = [pack.card for pack in packs]
    data.library_name = data.library_name or "peft"
    data.tags = _union(data.tags, ["room-impulse-response", "room-acoustics"])
    origins = [card["backbone"]["origin"] for card in cards]
    data.base_model = data.base_model or _one_or_all(filter(_ID.fullmatch, origins))
    data.datasets = _union(data.datasets, [card["room"]["name"].partition("/")[0] for card in cards])
    _add_licences(data, [str(card["room"].get("licence")) for card in cards])
    new = {card["name"] for card in cards}
    kept = [result for result in evaluated if result.dataset_config not in new]
    results = [*kept, *(result for card in cards for result in _results(card))]
    listed = list(dict.fromkeys(result.dataset_config for result in results))[-MOST_ADAPTERS:]
    data.eval_results = [result for result in results if result.dataset_config in listed] or None
    data.model_name = data.model_name or address.repository.partition("/")[2]
    if before is None:
        position = packs[-1].positions.mean(axis=0).round(2).tolist()
        usage = Address(address.repository, address.revision, packs[-1].name)
        card.text = _TEXT.format(repository=address.repository, address=usage, position=position)
    table = _table(data.eval_results or [])
    card.text = _TABLE.sub(lambda found: f"{found[1]}{table}\n{found[2]}", card.text)
    return str(card)


def _results(card: dict[str, Any]) -> list[EvalResult]:
    """What a card says of errors, as the Hub's model-index holds it."""
    evaluation, room = card.get("evaluation") or {"rows": []}, card["room"]
    row: dict = next((row for row in evaluation["rows"] if row["predictor"] == card["name"]), {})
    return [
        hub().EvalResult(
            task_type="room-impulse-response-prediction",
            task_name="room impulse responses at other positions",
            dataset_type=room["name"].partition("/")[0],
            dataset_name=one_line(f"{room['name']}: {room.get('source')}", 150),
            dataset_config=card["name"],
            dataset_split=evaluation["split"],
            dataset_args={key: evaluation[key] for key in ("positions", "k", "seed") if key in evaluation},
            metric_type=kind,
            metric_name=f"mean absolute error, {title}",
            metric_value=round(row[field] * factor, digits),
        )
        for field, (kind, title, factor, digits) in COLUMNS.items()
        if row.get(field) is not None
    ]


def _table(results: Sequence[EvalResult]) -> str:
    errors: dict[str, dict[str, str]] = {}
    for result in results:
        errors.setdefault(str(result.dataset_config), {})[result.metric_type] = str(result.metric_value)
    kinds = {kind: title for kind, title, _, _ in COLUMNS.values()}
    rows = [[f"[{name}]({name})", *(of.get(kind, "-") for kind in kinds)] for name, of in sorted(errors.items())]
    return markdown([["adapter", *kinds.values()], *rows]) if rows else "None is evaluated."


def _add_licences(data: ModelCardData, licences: Sequence[str]) -> None:
    """One licence where all have the same, else ``other`` with a name."""
    known = {_slug(licence): licence for licence in licences}
    if data.license:
        said = _slug(str(data.license_name)) if data.license == "other" else str(data.license)
        known = {said: str(data.license_name or data.license), **known}
    ((slug, name),) = known.items() if len(known) == 1 else [("", SEVERAL)]
    data.license, data.license_name = (slug, None) if slug in LICENCES else ("other", one_line(name, 80))


def _slug(licence: str) -> str:
    return re.sub(r"[\s_-]+", "-", licence.strip().lower())


def _union(before: Any, more: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*([before] if isinstance(before, str) else before or []), *more]))


def _one_or_all(values: Any) -> Any:
    found = _union(None, list(values))
    return found[0] if len(found) == 1 else found or None
