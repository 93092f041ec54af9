import os
import signal
import subprocess
import time

from upkeep import pidfd, proc


def test_a_pid_that_was_given_out_again_is_never_signalled(
    child: "subprocess.Popen[bytes]",
) -> None:
    identity = proc.identify(child.pid)
    assert identity is not None
    assert pidfd.open_process(identity._replace(start_ticks=identity.start_ticks - 1)) is None
    fd = pidfd.open_process(identity)
    assert fd is not None
    assert pidfd.send_signal(fd, signal.SIGKILL)
    assert pidfd.wait_for_exit([fd], 20) == set()
    child.wait()
    assert not pidfd.send_signal(fd, signal.SIGKILL)
    os.close(fd)


def test_a_zombie_is_dead(child: "subprocess.Popen[bytes]") -> None:
    identity = proc.identify(child.pid)
    assert identity is not None
    fd = pidfd.open_process(identity)
    assert fd is not None
    child.kill()
    assert pidfd.wait_for_exit([fd], 20) == set()  # nobody has reaped it yet
    os.close(fd)
    stat = proc.read_stat(child.pid)
    assert stat is not None and stat.dead
    assert not proc.is_alive(identity)
    assert pidfd.open_process(identity) is None


def test_waiting_ends_at_its_deadline(child: "subprocess.Popen[bytes]") -> None:
    identity = proc.identify(child.pid)
    assert identity is not None
    fd = pidfd.open_process(identity)
    assert fd is not None
    begin = time.monotonic()
    assert pidfd.wait_for_exit([fd], 0.05) == {fd}
    assert time.monotonic() - begin >= 0.05
    os.close(fd)


def test_the_number_of_a_thread_is_no_process() -> None:
    import threading

    release, ready = threading.Event(), threading.Event()
    numbers = []

    def run() -> None:
        numbers.append(threading.get_native_id())
        ready.set()
        release.wait()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        stat = proc.read_stat(numbers[0])
        assert stat is not None  # /proc shows a thread's directory to whoever asks for it
        identity = proc.Identity(proc.boot_id(), numbers[0], stat.start_ticks)
        assert pidfd.open_process(identity) is None
    finally:
        release.set()
        thread.join()
