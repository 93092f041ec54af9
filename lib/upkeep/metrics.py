"""Figures for Prometheus: a text file that node_exporter's textfile collector picks up."""

from pathlib import Path

from upkeep import files

Figures = dict[str, dict[tuple[str, str], float]]  # {name: {(label, its value): figure}}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

# Every name of the suite's own. A "group" is a task, or a program by its name.
HELP = {
    "upkeep_build_info": "The installed version; always 1.",
    "upkeep_last_success_timestamp_seconds": "End of the script's last run that did all its work.",
    "upkeep_run_duration_seconds": "How long the script's last run took.",
    "upkeep_memory_limit_bytes": "RAM, or the control group's limit where that is lower.",
    "upkeep_memory_available_bytes": "What programs can still get of that limit.",
    "upkeep_oom_kills_total": "Processes that the kernel killed for want of memory since boot.",
    "upkeep_processes": "Processes of the group; 0 for a task that does not run.",
    "upkeep_process_resident_memory_bytes": "RSS of the group; shared pages count repeatedly.",
    "upkeep_process_proportional_memory_bytes": "PSS of the group, where it may be read.",
    "upkeep_process_swap_bytes": "Its part of the swap, where it may be read.",
    "upkeep_process_open_fds": "Open descriptors of the group, where they may be read.",
    "upkeep_process_start_time_seconds": "Unix time at which its oldest process started.",
    "upkeep_process_memory_limit_bytes": "max_rss of the task.",
    "upkeep_process_restarts_total": "Starts of a task that upkeep itself runs.",
    "upkeep_process_given_up": "Whether the task's crash-loop breaker is open.",
    "upkeep_process_memory_growth_bytes_per_second": "Slope of its memory, judged once an hour.",
    "upkeep_process_leak_suspected": "Whether the verdict on that is a leak.",
    "upkeep_process_time_to_limit_seconds": "When a leaking or growing group reaches its limit.",
    "upkeep_directory_size_bytes": "Size on disk, measured once an hour.",
    "upkeep_outbox_messages": "Telegram messages that wait to be delivered.",
    "upkeep_outbox_oldest_age_seconds": "Age of the oldest one; 0 when none waits.",
    "upkeep_delivery_breaker_open": "Whether Telegram is not asked for now, after failures.",
    "upkeep_job_last_success_timestamp_seconds": "End of the job's last success; 0 for none.",
}


def write(path: Path, figures: Figures) -> None:
    """Replace the file at once, readable by the exporter's user (0644). Raises OSError."""
    path.parent.stat()  # made here, it would be a private one
    lines = []
    for name, values in sorted(figures.items()):
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {HELP.get(name, 'See the program.')}", f"# TYPE {name} {kind}"]
        for (label, text), value in values.items():
            labels = f'{{{label}="{text.translate(_ESCAPES)}"}}' if label else ""
            lines.append(f"{name}{labels} {float(value)!r}")
    files.atomic_write(path, "\n".join([*lines, ""]).encode("utf-8", "replace"), 0o644)
