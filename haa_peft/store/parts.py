"""Files of a pack: names, sizes, and bytes that are the same for the same content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from haa_peft.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from haa_peft.store.names import AdapterName

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
REFERENCES, ROOM, CARD, README = "references.safetensors", "room.json", "card.json", "README.md"
PREPARED, LEVELS, RECORDINGS = "prepared.safetensors", "levels.safetensors", "recordings.safetensors"
VIEWS = "views.safetensors"
HASHED = (ADAPTER, CONFIG, REFERENCES, ROOM)
OPTIONAL = (PREPARED, LEVELS, RECORDINGS, VIEWS)

LARGEST_BYTES = {
    **dict.fromkeys((CARD, CONFIG, ROOM, LEVELS), 2**20), PREPARED: 2**26, REFERENCES: 2**27,
    **dict.fromkeys((ADAPTER, RECORDINGS, VIEWS), 2**28)
}  # fmt: skip
"""Of each file; what is larger is not read."""


def damaged(where: object, what: str) -> InputError:
    """The error of a pack, or a file of it, that is not as it was written."""
    return InputError(f"{where}: {what}; restore or retrain the adapter")


@contextmanager
def reading(name: AdapterName, file_name: str) -> Iterator[None]:
    """Whatever a damaged file makes of its reader inside the block becomes an ``InputError`` that names it."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(str(name)):
            raise
        raise InputError(f"{name}: {file_name}: {error}") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise damaged(name, f"{file_name} cannot be read ({reason:.120})") from None


def check_size(name: AdapterName, file_name: str, size: int) -> None:
    """Raise ``InputError`` if a file of so many bytes would not be read."""
    if size > LARGEST_BYTES[file_name]:
        raise InputError(
            f"{name}: {file_name} has {size} bytes but at most {LARGEST_BYTES[file_name]} are read; "
            "restore the adapter, or train it with fewer measurements or weights"
        )


def listed_files(card: Mapping[str, Any]) -> list[str]:
    """Files of a pack that its card holds the SHA-256 of, and that are read."""
    return [*HASHED, *(file_name for file_name in OPTIONAL if file_name in card["files"])]


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def json_bytes(value: object) -> bytes:
    """JSON to be read by people too."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(content: bytes) -> Any:
    """JSON whose texts can be printed; ``ValueError`` for half characters."""
    found = json.loads(content)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def tensor_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file, its header sorted and with ``about`` as metadata."""
    from safetensors.torch import save

    content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata=dict(about or {}) or None)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    tensor_header = {key: header[key] for key in sorted(tensors, key=lambda key: (header[key]["data_offsets"], key))}
    header = {**({"__metadata__": dict(sorted(about.items()))} if about else {}), **tensor_header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def tensor_names(content: bytes) -> dict[str, Any]:
    """Names of the tensors of a safetensors file that is whole; reading them needs no torch."""
    import safetensors

    return dict.fromkeys(name for name, _ in safetensors.deserialize(content))


def metadata(content: bytes) -> dict:
    """Metadata of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + size]).get("__metadata__") or {})
