"""From a CUDA source to C++ that g++ compiles: preprocessing, and what macros can't express."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .toolchain import FOLDER, run

__all__ = ["HEADERS", "MOST_THREADS", "to_cpp"]

HEADERS = FOLDER / "include"
MOST_THREADS = 1024
PREPROCESS = ["g++", "-E", "-x", "c++", "-std=c++17", "-nostdinc", f"-I{HEADERS}"]

_BOUNDS = r"__launch_bounds__\s*\((?P<bounds>(?:[^()]|\([^()]*\))*)\)"
_KERNEL = re.compile(
    rf'extern\s+"C"\s+__global__\s+(?:{_BOUNDS}\s*)?void\s+'
    rf"(?:{_BOUNDS.replace('bounds>', 'bounds_after>')}\s*)?(?P<name>\w+)\s*\("
)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?P<type>[^;{}]*?)\b(?P<name>\w+)\s*\[\s*\]\s*;")


def to_cpp(source: str, options: Sequence[str], name: str) -> str:
    """Preprocessed C++ with an entry for every kernel. Raises CompileError."""
    folders = [option for option in options if option.startswith("-I")]
    text = run([*PREPROCESS, *folders, "-"], f'{_prelude(options)}#line 1 "{name}"\n{source}')
    kernels = {m["name"]: m["bounds"] or m["bounds_after"] for m in _KERNEL.finditer(text)}
    entries = "".join(_entry(kernel, bounds) for kernel, bounds in kernels.items())
    return _plain_cpp(text) + entries + _LIBRARY % " ".join(kernels)


def _prelude(options: Sequence[str]) -> str:
    """What stands before a source: the macros last, so that they can't change our own headers."""
    chosen = [re.fullmatch(r"-.*arch\w*=(?:sm|compute)_(\d+)\w*", option) for option in options]
    arch = next((int(m[1]) * 10 for m in chosen if m), 900)
    macros = [option[2:].partition("=") for option in options if option.startswith("-D")]
    lines = [f"#define {name} {value if equals else 1}\n" for name, equals, value in macros]
    return f'#define __CUDA_ARCH__ {arch}\n#include "emulator.h"\n{"".join(lines)}'


def _plain_cpp(text: str) -> str:
    """What macros can't express: kernels' attributes, static and dynamic shared memory."""

    def blank(match: re.Match) -> str:
        return "\n" * match[0].count("\n") or " "

    text = re.sub(rf"\b__global__\b|{_BOUNDS}", blank, text)
    text = _DYNAMIC.sub(
        r"\g<type>* const \g<name> = reinterpret_cast<\g<type>*>(emulator_dynamic_shared());", text
    )
    # `used`: the compiler must not conclude that a variable nobody writes is zero.
    return re.sub(r"\b__shared__\b", "static __attribute__((used))", text)


_LIBRARY = """
extern "C" __attribute__((visibility("default"))) const char emulator_kernels[] = "%s";
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], _end[];
extern "C" __attribute__((visibility("default"), no_sanitize("thread")))
void emulator_image(unsigned long* out) {
    out[0] = (unsigned long)__ehdr_start;
    out[1] = (unsigned long)_end;
}
"""


def _entry(kernel: str, bounds: str | None) -> str:
    """Functions beside a kernel: the call, the description, the most threads of a block."""
    most = f"emulator::first({bounds})" if bounds else str(MOST_THREADS)
    attributes = 'extern "C" __attribute__((visibility("default")))'
    return f"""
{attributes} void emulator_entry_{kernel}(void** arguments) {{
    emulator::call({kernel}, arguments);
}}
{attributes} void emulator_describe_{kernel}(emulator::Parameter* out) {{
    emulator::describe({kernel}, out);
}}
{attributes} int emulator_bounds_{kernel}() {{ return {most}; }}
"""
