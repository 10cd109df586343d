"""The files of a release, read in place: from its tar, without unpacking it, or from an unpacked folder.

Nothing of a tar is ever written under its own name, and only plain files are read, so neither absolute paths nor `..`,
links or devices can reach outside; they are refused, by name. Sizes are checked before anything is read.
"""

from __future__ import annotations

import itertools
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gptfluence.errors import UserError
from gptfluence.io import digest
from gptfluence.sources import sampled_digest

MAX_BYTES = 256 << 20
"""Most bytes of one file that are read; the release's largest have 13 million."""
_MAX_HEADER = 1 << 20
_DAMAGES = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class Member(NamedTuple):
    """One plain file.

    Attributes:
        path: its path in the release.
        place: where it stands there; later files have greater places.
        size: bytes.
        read: returns its content; to be called before the next member is asked for.
    """

    path: PurePosixPath
    place: int
    size: int
    read: Callable[[], bytes]


class Source:
    """A release: a tar, plain or compressed, or a folder.

    Attributes:
        path: of it.
        size: bytes of the tar, or of the folder's files.
        signature: 12 hexadecimal digits that change if the files do.
        refused: {path: why} of what was not read, filled by `members`.
    """

    def __init__(self, path: Path) -> None:
        """Look at a release; a folder's files are listed, nothing is read.

        Raises:
            UserError: there is no such file or folder.
        """
        self.path = path
        self.refused: dict[str, str] = {}
        self._files: list[tuple[PurePosixPath, int]] = []
        if path.is_dir():
            self._files = self._list()
            times = [(path / file).stat().st_mtime_ns for file, _ in self._files]
            self.size = sum(size for _, size in self._files)
            self.signature = digest(
                [[str(file), size, time] for (file, size), time in zip(self._files, times, strict=True)]
            )
        elif path.is_file():
            self.size = path.stat().st_size
            self.signature = digest([sampled_digest(path), path.stat().st_mtime_ns])
        else:
            raise UserError(
                f"{path}: no such file or folder; give the release's tar, or the folder that it was unpacked to"
            )

    def members(self) -> Iterator[tuple[Member, int]]:
        """Yield each plain file, and how many of the source's bytes are behind it.

        Raises:
            UserError: the tar is damaged or cut short, or a file cannot be read.
        """
        return self._of_folder() if self.path.is_dir() else self._of_tar()

    def _list(self) -> list[tuple[PurePosixPath, int]]:
        """List the plain files below a folder in the order of their names; links are not followed."""
        found = []
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            for name in itertools.chain(folders, names):
                file = Path(folder, name)
                inside = PurePosixPath(file.relative_to(self.path).as_posix())
                if file.is_symlink():
                    self.refused[str(inside)] = "a link"
                elif name in names and file.is_file():
                    found.append((inside, file.stat().st_size))
                elif name in names:
                    self.refused[str(inside)] = "no plain file"
        return sorted(found, key=lambda item: item[0].parts)

    def _of_folder(self) -> Iterator[tuple[Member, int]]:
        done = 0
        for place, (inside, size) in enumerate(self._files):
            done += size
            if self._allowed(str(inside), size):
                try:
                    yield Member(inside, place, size, (self.path / inside).read_bytes), done
                except OSError as error:
                    raise UserError(f"{self.path / inside}: cannot be read: {error.strerror}") from None

    def _of_tar(self) -> Iterator[tuple[Member, int]]:
        try:
            with open(self.path, "rb") as file, tarfile.open(fileobj=file, mode="r:*", tarinfo=_Header) as tar:
                last = -1
                while (header := tar.next()) is not None:
                    tar.members = []  # it would keep every header that it has seen
                    if header.offset <= last or header.size < 0:
                        raise tarfile.ReadError("its headers lead back")
                    last = header.offset
                    path = self._inside(header)
                    if path is not None and self._allowed(str(path), header.size):
                        yield Member(path, header.offset, header.size, self._reader(tar, header)), file.tell()
        except _DAMAGES as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path}: no tar, or damaged or cut short ({str(error) or type(error).__name__}). Compare its size "
            "with the published one, download it again, and import again."
        )

    def _reader(self, tar: tarfile.TarFile, header: tarfile.TarInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                file = tar.extractfile(header)
                content = file.read() if file else b""
            except _DAMAGES as error:
                raise self._damaged(error) from None
            if len(content) != header.size:
                raise self._damaged(EOFError(f"{header.name} has {len(content)} of {header.size} bytes"))
            return content

        return read

    def _inside(self, header: tarfile.TarInfo) -> PurePosixPath | None:
        """Return where a tar's file stands in it; None for folders and for what is refused."""
        path = PurePosixPath(header.name)
        if header.isdir():
            return None
        if not header.isreg() or header.issparse():
            kind = "a link" if header.issym() or header.islnk() else "no plain file"
            self.refused[header.name[:300]] = kind
            return None
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in header.name:
            self.refused[header.name[:300]] = "a path that leads outside"
            return None
        return path

    def _allowed(self, name: str, size: int) -> bool:
        if size > MAX_BYTES:
            self.refused[name] = f"too large ({size:,} bytes; at most {MAX_BYTES:,} are read)"
        return size <= MAX_BYTES


class _Header(tarfile.TarInfo):
    """A tar's header, but for sizes that no honest one has."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:  # the hook for kinds of members
        if self.size < 0:
            raise tarfile.ReadError("a header with a negative size")
        long = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
                             tarfile.SOLARIS_XHDTYPE)  # fmt: skip
        if long and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]
