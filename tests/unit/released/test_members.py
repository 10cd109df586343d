"""Reading a release in place: whatever a tar holds, nothing but its plain files is read, and nothing is unpacked."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from gptfluence.errors import UserError
from gptfluence.released import members
from gptfluence.released.members import Source


def tar_of(path: Path, add: Callable[[tarfile.TarFile], None], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        add(tar)
    return path


def put(tar: tarfile.TarFile, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    tar.addfile(header, io.BytesIO(content))


def contents(source: Source) -> list[tuple[str, bytes]]:
    return [(str(member.path), member.read()) for member, _ in source.members()]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_plain_files_of_a_tar_are_read_in_order(tmp_path: Path, mode: str) -> None:
    def add(tar: tarfile.TarFile) -> None:
        put(tar, "./a/b.json", b"1")
        put(tar, "a", kind=tarfile.DIRTYPE)
        put(tar, "a/b.json", b"2")  # there twice
        put(tar, "x" * 150 + "/" + "y" * 120, b"long")

    source = Source(tar_of(tmp_path / "r.tar", add, mode))
    assert contents(source) == [("a/b.json", b"1"), ("a/b.json", b"2"), ("x" * 150 + "/" + "y" * 120, b"long")]
    places = [member.place for member, _ in source.members()]
    assert places == sorted(set(places)) and source.refused == {}


def test_a_hostile_tar_reaches_nothing_outside_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")

    def add(tar: tarfile.TarFile) -> None:
        put(tar, str(tmp_path / "absolute"))
        put(tar, "../up")
        put(tar, "a/../../up2")
        put(tar, "link", kind=tarfile.SYMTYPE, link=str(secret))
        put(tar, "hard", kind=tarfile.LNKTYPE, link="../secret")
        put(tar, "device", kind=tarfile.CHRTYPE)
        put(tar, "block", kind=tarfile.BLKTYPE)
        put(tar, "pipe", kind=tarfile.FIFOTYPE)
        put(tar, "link/through", b"of its own")
        put(tar, "good", b"good")

    before = sorted(tmp_path.rglob("*"))
    source = Source(tar_of(tmp_path / "r.tar", add))
    # A path below the name of a link is a path like others: nothing is unpacked, so nothing is followed.
    assert contents(source) == [("link/through", b"of its own"), ("good", b"good")]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "r.tar"])
    refused = {str(tmp_path / "absolute"), "../up", "a/../../up2", "link", "hard", "device", "block", "pipe"}
    assert set(source.refused) == refused


def test_files_that_are_too_large_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_BYTES", 4)

    def add(tar: tarfile.TarFile) -> None:
        put(tar, "large", b"12345")
        put(tar, "small", b"1234")

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/large").write_bytes(b"12345")
    for source in (Source(tar_of(tmp_path / "r.tar", add)), Source(tmp_path / "folder")):
        assert "large" not in dict(contents(source))
        assert "5 bytes" in source.refused["large"]


@pytest.mark.parametrize("size", [1 << 40, -512, -(1 << 40)])
def test_claimed_sizes_are_not_believed(tmp_path: Path, size: int) -> None:
    """More than the file has ends as a cut file; below zero would lead back, and so nowhere."""
    header = tarfile.TarInfo("a")
    header.size = size
    path = tmp_path / "r.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(UserError, match="damaged or cut short"):
        contents(Source(path))


def test_long_headers_are_not_read_into_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    path = tmp_path / "r.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(UserError, match="a header of 8,589,934,592 bytes"):
        contents(Source(path))


def test_a_tar_that_is_cut_short_or_none_is_named(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "r.tar", lambda tar: [put(tar, f"f{i}", bytes(2000)) for i in range(9)] and None)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:6000])
    (tmp_path / "none.tar").write_bytes(b"PK" * 5000)
    packed = tar_of(tmp_path / "r.tar.gz", lambda tar: put(tar, "f", os.urandom(9000)), "w:gz")
    packed.write_bytes(packed.read_bytes()[:5000])
    for path in (cut, tmp_path / "none.tar", packed):
        with pytest.raises(UserError, match=f"{path.name}: no tar, or damaged or cut short"):
            contents(Source(path))
    with pytest.raises(UserError, match="no such file or folder"):
        Source(tmp_path / "absent")


def test_a_folder_is_read_in_the_order_of_its_names_and_no_link_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "release"
    for name in ("b/2", "b/10", "a.x/1", "a/1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "secret").write_text("secret")
    (root / "a/link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    source = Source(root)
    assert [name for name, _ in contents(source)] == ["a/1", "a.x/1", "b/10", "b/2"]
    assert source.refused == {"a/link": "a link", "folder": "a link", "pipe": "no plain file"}


def test_the_signature_changes_with_the_files(tmp_path: Path) -> None:
    folder, tar = tmp_path / "f", tmp_path / "r.tar"
    folder.mkdir()
    (folder / "a").write_text("1")
    tar_of(tar, lambda t: put(t, "a", b"1"))
    before = Source(folder).signature, Source(tar).signature
    assert before == (Source(folder).signature, Source(tar).signature)
    (folder / "b").write_text("1")
    tar_of(tar, lambda t: put(t, "a", b"2"))
    assert not set(before) & {Source(folder).signature, Source(tar).signature}
