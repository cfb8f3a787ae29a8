"""Secrets out of a folder: a file for each, named like it, as containers mount them.

They are read anew for each execution, so that a changed file counts from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ironflow.core.errors import InvalidInput
from ironflow.core.functions.secrets import LONGEST, SecretMissing, check_secrets


class SecretFolder:
    """The secrets of one environment. A `SecretSource`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def read(self, names: Sequence[str]) -> dict[str, str]:
        """The values: the texts of the files, without the newline at their ends. Raises
        `SecretMissing`.
        """
        if not names:
            return {}
        return await asyncio.to_thread(lambda: {name: self._read(name) for name in names})

    def _read(self, name: str) -> str:
        path = self.folder / name
        try:
            check_secrets([name])
            with path.open("rb") as file:
                data = file.read(LONGEST + 2)
            text = data.decode().removesuffix("\n")
        except InvalidInput as error:
            raise SecretMissing(name, error.reason) from None
        except OSError as error:
            raise SecretMissing(name, f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SecretMissing(name, f"{path} is not UTF-8") from None
        if len(text.encode()) > LONGEST:
            raise SecretMissing(name, f"{path} is larger than {LONGEST} bytes")
        return text
