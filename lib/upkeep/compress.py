"""Replace a file by its gzip archive, which is read back before the file goes; with the package
isal (the extra "fast") several times faster."""

import contextlib
import errno
import gzip
import importlib.util
import os
import zlib
from collections.abc import Iterator
from typing import Any

from upkeep.openfiles import Claim, LeftAloneError
from upkeep.tree import QUIETLY, Found

codec: Any = importlib.import_module("isal.igzip" if importlib.util.find_spec("isal") else "gzip")

LEFTOVER = ".upkeep-tmp"  # how the name of a temporary file ends
_CHUNK = 1 << 20
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".zip", ".7z")


@contextlib.contextmanager
def temporary(found: Found) -> Iterator[tuple[int, str]]:
    """An empty private file beside `found`: (descriptor for appending, name). It goes in the end,
    unless renamed; one that a killed run left goes before. Raises OSError."""
    name = f".{found.name[:60]}{LEFTOVER}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=found.directory)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=found.directory)
    try:
        yield fd, name
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=found.directory)


def finish(source: int, target: int) -> None:
    """Give `target` the owner, mode, attributes and mtime of `source`, and have it on the disk."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, info.st_mode & 0o7777)
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
    os.fsync(target)


def compress(found: Found, dry_run: bool) -> int:
    """Compress one file to NAME.gz. Returns the bytes freed. Raises LeftAloneError and OSError. An
    archive that is there stays; when it holds the same, as after a crash, the file goes."""
    if found.name.endswith(_COMPRESSED) or found.info.st_nlink > 1:
        raise LeftAloneError("compressed already, or it has other names (hard links)")
    archive, directory, made = f"{found.name}.gz", found.directory, False
    with Claim(found) as claim:
        try:
            with open(os.open(archive, QUIETLY, dir_fd=directory), "rb") as file:
                if _digest(claim, file.fileno()) != _copy(claim, None):
                    raise FileExistsError(errno.EEXIST, f"{archive} exists and differs")
        except FileNotFoundError:
            if dry_run:
                return 0
            _pack(claim, found, archive)
            made = True
        blocks = os.stat(archive, dir_fd=directory).st_blocks
        try:
            claim.check()
        except LeftAloneError:
            if made:  # else it would differ from the file for ever
                os.unlink(archive, dir_fd=directory)
            raise
        if not dry_run:
            os.unlink(found.name, dir_fd=directory)
            os.fsync(directory)
    return (found.info.st_blocks - blocks) * 512


def _pack(claim: Claim, found: Found, archive: str) -> None:
    directory = found.directory
    with temporary(found) as (fd, name):
        out = open(fd, "wb", closefd=False)
        with out, codec.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as target:
            written = _copy(claim, target)
        finish(claim.fd, fd)
        if _digest(claim, fd) != written:
            raise OSError(errno.EIO, "the archive does not read back as it was written")
        claim.check()
        os.link(name, archive, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def _copy(claim: Claim, target: gzip.GzipFile | None) -> tuple[int, int]:
    """Read the whole file, into `target` if given. Returns its size and CRC-32."""
    size, crc = 0, 0
    while chunk := os.pread(claim.fd, _CHUNK, size):
        claim.check()
        crc = zlib.crc32(chunk, crc)
        if target:
            target.write(chunk)
        os.posix_fadvise(claim.fd, size, len(chunk), os.POSIX_FADV_DONTNEED)
        size += len(chunk)
    return size, crc


def _digest(claim: Claim, fd: int) -> tuple[int, int]:
    """Size and CRC-32 of what the archive `fd` holds; (-1, 0) when it is damaged. A program that
    waits to write the file ends it."""
    size, crc = 0, 0
    try:
        with open(f"/proc/self/fd/{fd}", "rb") as file, codec.GzipFile(fileobj=file) as source:
            while chunk := source.read(_CHUNK):
                claim.check()
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return -1, 0
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return size, crc
