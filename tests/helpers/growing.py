"""A program whose memory is known: growing.py BASE_MIB [MIB_PER_SECOND]. Says "ready"."""

import sys
import time

held = [bytearray(b"x") * (1 << 20) for _ in range(int(sys.argv[1]))]
rate = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
print("ready", flush=True)
begin = time.monotonic()
while True:
    wanted = int((time.monotonic() - begin) * rate * 16)
    while len(held) < int(sys.argv[1]) + wanted:
        held.append(bytearray(b"x") * (1 << 16))
    time.sleep(0.02)
