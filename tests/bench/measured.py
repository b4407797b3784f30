"""What the benches that run whole programs share: commands, and where a figure comes from."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(arguments, **options):
    """Standard output of a command; the bench ends where it fails."""
    done = subprocess.run([str(a) for a in arguments], stdout=subprocess.PIPE, text=True, check=False,
                          stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {arguments[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def smollm2():
    """The one real model, fetched the first time."""
    return ROOT / run([ROOT / "scripts/fetch-model"]).strip()


def machine():
    fields = dict(line.split(":", 1) for line in run(["lscpu"]).splitlines() if ":" in line)
    flags = fields["Flags"].split()
    simd = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if f in flags]
    return f"{fields['Model name'].strip()}, {os.cpu_count()} CPUs, {' '.join(simd) or 'no SIMD of interest'}"


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True,
                          text=True, check=False)
    return done.stdout.strip() or "unknown"
