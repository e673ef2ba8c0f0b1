"""What the Hub, the network and the disk raise, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.hub.address import Address

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class HubError(InputError):
    """The Hub, the network or the disk fails; another adapter would fare no better."""


def hub(module: str = "") -> ModuleType:
    """``huggingface_hub``, or a ``.module`` of it; raises ``InputError`` where it is not installed."""
    return package(f"huggingface_hub{module}", "the Hugging Face Hub", "hub")


@contextmanager
def plain_errors(address: Address) -> Iterator[None]:
    """Inside the block, what ``huggingface_hub`` raises becomes a :class:`HubError` that names the address."""
    errors = hub(".errors")
    try:
        yield
    except InputError:
        raise
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise HubError(f"{address}: {_answer(error.__cause__, address, errors)}") from error
        if isinstance(error.__cause__, errors.FileMetadataError):
            raise HubError(f"{address}: {_unreachable()}, or is no Hub; check HF_ENDPOINT") from error
        raise HubError(f"{address}: {_unreachable()}, and it is not in the cache; check the network") from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError(f"{address}: {_unreachable()}; unset it, or name an adapter in the cache") from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"{address}: {_answer(error, address, errors)}") from error
    except errors.HTTPError as error:  # of the HTTP client, whichever huggingface_hub uses
        where, why = hub(".constants").ENDPOINT, type(error).__name__
        raise HubError(f"{address}: the connection with {where} fails ({why}); check the network") from error
    except OSError as error:
        if error.strerror:
            where = error.filename or f"the cache {hub('.constants').HF_HUB_CACHE}"
            raise HubError(f"{address}: {where} cannot be written ({error.strerror}); make room for it") from error
        raise HubError(f"{address}: {_first_line(error)}; run the same command again") from error
    except (ValueError, RuntimeError) as error:
        cause = error.__cause__
        if isinstance(error, RuntimeError) and cause is not None:  # of a thread that uploads
            with plain_errors(address):
                raise cause from None
        raise HubError(f"{address}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _unreachable() -> str:
    constants = hub(".constants")
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"


def _answer(error: Exception, address: Address, errors: ModuleType) -> str:
    """What an answer of the Hub means."""
    status = error.response.status_code  # type: ignore[attr-defined]
    if isinstance(error, errors.GatedRepoError):
        return f"access is granted on request only; ask for it on the repository's page, then {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private and not yours; check the name, or {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"there is no revision {address.revision!r}; give a branch, a tag or a commit"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no such adapter; `haa-peft pull {address.repository} --dry-run` lists them"
    if status in (401, 403):
        return f"the Hub refuses this (status {status}); {LOG_IN}, with a token that may do it"
    if status in (409, 412):
        return "somebody else has pushed meanwhile; run the same command again"
    said = f": {message}" if (message := getattr(error, "server_message", None)) else ""
    return f"the Hub answers with status {status}{' '.join(said.split()):.100}; try again later"
