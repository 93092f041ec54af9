"""Replace a file by its gzip archive, which is read back before the file goes.

With the package isal installed (the extra "fast") the same format is written several times
faster, and about a fifth larger.
"""

import errno
import gzip
import os
import zlib
from typing import Any

from upkeep import scratch
from upkeep.openfiles import Claim, LeftAloneError
from upkeep.tree import Found

_CHUNK = 1 << 20
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".zip", ".7z")
_LEAST_RATIO = 3  # so much smaller the archive is expected to be


def compress(found: Found, dry_run: bool) -> int:
    """Compress one file to NAME.gz. Returns the bytes freed, 0 for a dry run.

    An archive that is there already is never written over; when it holds the very same content,
    as after a crash, the file goes. Raises LeftAloneError and OSError.
    """
    if found.name.endswith(_COMPRESSED):
        raise LeftAloneError("already compressed")
    if found.info.st_nlink > 1:
        raise LeftAloneError("it has other names (hard links)")
    if dry_run:
        return 0
    archive = f"{found.name}.gz"
    with Claim(found.directory, found.name, found.info) as claim:
        if not _holds_the_same(archive, found.directory, claim):
            _write(archive, found, claim)
        claim.check()
        info = os.stat(archive, dir_fd=found.directory, follow_symlinks=False)
        os.unlink(found.name, dir_fd=found.directory)
        os.fsync(found.directory)
    return (found.info.st_blocks - info.st_blocks) * 512


def _holds_the_same(archive: str, directory: int, claim: Claim) -> bool:
    """Whether the archive is there; raises FileExistsError when it holds something else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(archive, flags, dir_fd=directory)
    except FileNotFoundError:
        return False
    with open(fd, "rb") as file:
        if _unpacked(file.fileno()) != _copy(claim):
            raise FileExistsError(errno.EEXIST, f"{archive} exists and holds something else")
    return True


def _write(archive: str, found: Found, claim: Claim) -> None:
    disk = os.fstatvfs(found.directory)
    if disk.f_bavail * disk.f_frsize < found.info.st_size // _LEAST_RATIO:
        raise OSError(errno.ENOSPC, "not enough free space for the archive")
    with scratch.temporary(found.directory, archive) as (fd, name):
        with (
            open(fd, "wb", closefd=False) as file,
            _gzip().GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as target,
        ):
            packed = _copy(claim, target)
        scratch.finish(claim.fd, fd)
        if _unpacked(fd) != packed:
            raise OSError(errno.EIO, "the archive does not read back as what was written")
        claim.check()
        os.link(name, archive, src_dir_fd=found.directory, dst_dir_fd=found.directory)
        os.fsync(found.directory)


def _gzip() -> Any:
    try:
        from isal import igzip
    except ImportError:
        return gzip
    return igzip


def _copy(claim: Claim, target: Any = None) -> tuple[int, int]:
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


def _unpacked(fd: int) -> tuple[int, int]:
    """Size and CRC-32 of what the archive `fd` holds; (-1, 0) when it is damaged."""
    size, crc = 0, 0
    try:
        with open(f"/proc/self/fd/{fd}", "rb") as file, _gzip().GzipFile(fileobj=file) as source:
            while chunk := source.read(_CHUNK):
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return -1, 0
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return size, crc
