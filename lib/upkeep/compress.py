"""Replace a file by its gzip archive, which is read back before the file goes; with the package
isal (the extra "fast") several times faster."""

import contextlib
import errno
import importlib.util
import os
import zlib
from collections.abc import Iterator
from typing import Any

from upkeep.openfiles import Claim
from upkeep.tree import QUIETLY, Found, LeftAloneError

codec: Any = zlib
level = 6
if importlib.util.find_spec("isal"):
    codec, level = importlib.import_module("isal.isal_zlib"), 2

LEFTOVER = ".upkeep-tmp"  # how the name of a temporary file ends
_CHUNK = 1 << 20
_PIECE = 4 << 10  # unpacked it is up to 4 MiB
_GZIP = 16 + zlib.MAX_WBITS  # for zlib: with the header and the trailer of gzip (RFC 1952)
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
                _compare(claim, file.fileno(), f"{archive} exists and differs")
        except FileNotFoundError:
            if dry_run:
                return 0
            _pack(claim, archive)
            made = True
        blocks = os.stat(archive, dir_fd=directory).st_blocks
        try:
            claim.check()
            if not dry_run:
                os.unlink(found.name, dir_fd=directory)
        except (LeftAloneError, OSError):
            if made:  # else it would differ from the file for ever
                os.unlink(archive, dir_fd=directory)
            raise
        if not dry_run:
            os.fsync(directory)
    return (found.info.st_blocks - blocks) * 512


def _pack(claim: Claim, archive: str) -> None:
    directory, packer = claim.found.directory, codec.compressobj(level, zlib.DEFLATED, _GZIP)
    with temporary(claim.found) as (fd, name):
        with open(fd, "wb", closefd=False) as target:
            for chunk in _read(claim.fd, _CHUNK):
                target.write(packer.compress(chunk))
                claim.check()
            target.write(packer.flush())
        finish(claim.fd, fd)
        _compare(claim, fd, "the archive does not read back as it was written")
        claim.check()
        os.link(name, archive, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def _read(fd: int, size: int) -> Iterator[bytes]:
    """A whole file, `size` bytes at a time. What was read leaves the page cache."""
    offset = 0
    while chunk := os.pread(fd, size, offset):
        yield chunk
        offset += len(chunk)
        forget(fd, offset)


def forget(fd: int, offset: int) -> None:
    """Have what was read up to `offset` leave the page cache. All of it, again and again: a piece
    that is only a part of a page folio stays."""
    os.posix_fadvise(fd, 0, offset, os.POSIX_FADV_DONTNEED)


def _compare(claim: Claim, fd: int, message: str) -> None:
    """Raise OSError with `message` unless the archive `fd` holds what the file does, byte for byte.
    A program that waits to write the file ends it."""
    offset, unpacker = 0, codec.decompressobj(_GZIP)
    with contextlib.suppress(codec.error):
        for packed in _read(fd, _PIECE):
            piece = unpacker.decompress(packed)
            if piece != os.pread(claim.fd, len(piece), offset):
                raise OSError(errno.EEXIST, message)
            offset += len(piece)
            forget(claim.fd, offset)
            claim.check()
    if not unpacker.eof or unpacker.unused_data or offset != claim.found.info.st_size:
        raise OSError(errno.EEXIST, message)
