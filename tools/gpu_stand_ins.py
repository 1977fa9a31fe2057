#!/usr/bin/env python3
"""Lets `import torch` work on a machine that has none of NVIDIA's libraries.

usage: gpu_stand_ins.py FOLDER_OF_TORCH_LIBRARIES OUTPUT_FOLDER

PyTorch's wheel needs cuBLAS, cuDNN, NCCL and others at load time, 2 GB of them, though a machine without a GPU never
calls one. For each that the loader cannot find, this compiles a library with its name, exporting the functions that
torch's libraries ask it for. Each of them says which function was called and aborts. A module beside them,
gpu_stand_ins_loader, loads them all: once a library of some name is loaded, the loader searches for it no more.

Prints the names of the libraries made, on one line; nothing where none is missing.
"""
import os
import re
import subprocess
import sys

TORCH_LIBRARIES = ["libtorch_python.so", "libtorch_cuda.so", "libtorch_nvshmem.so", "libc10_cuda.so"]

LOADER = '''"""Loads the libraries beside this file, so that torch finds them loaded. Made by tools/gpu_stand_ins.py."""
import ctypes
import os

for _name in %r:
    ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), _name), mode=ctypes.RTLD_LOCAL)
'''

FUNCTION = '''
void {name}(void) {{ quadrat_stand_in("{name}"); }}'''

SOURCE = '''#include <stdio.h>
#include <stdlib.h>

static void quadrat_stand_in(const char* function) {{
  fprintf(stderr, "%s was called, but {soname} is a stand-in made by tools/python_env: there are no GPU libraries "
          "on this machine\\n", function);
  abort();
}}
{functions}
'''


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing_sonames(folder):
    """Libraries that torch's own need and the loader cannot find."""
    missing = set()
    for library in TORCH_LIBRARIES:
        for line in output_of("ldd", os.path.join(folder, library)).splitlines():
            match = re.match(r"\s*(\S+) => not found", line)
            if match:
                missing.add(match.group(1))
    return missing


def undefined_symbols(folder):
    """(name, version or None) of each symbol that torch's libraries take from others."""
    for library in TORCH_LIBRARIES:
        path = os.path.join(folder, library)
        for line in output_of("nm", "-D", "--undefined-only", "--with-symbol-versions", path).splitlines():
            kind, symbol = line.split()[-2:]
            if kind == "U":
                name, _, version = symbol.partition("@")
                yield name, version.lstrip("@") or None


def prefix_of(soname):
    """libcusparseLt.so.0 has functions that begin with cusparseLt."""
    return re.match(r"lib([a-zA-Z0-9]+?)(_host)?\.so", soname).group(1).lower()


def owner_of(name, version, missing):
    """The missing library that has to export a symbol, or None."""
    if version is not None:
        return version if version in missing else next(
            (s for s in missing if re.match(re.escape(prefix_of(s)) + r"\b", version.lower())), None)
    fitting = [s for s in missing if name.lower().startswith(prefix_of(s))]
    return max(fitting, key=lambda s: len(prefix_of(s)), default=None)


def compile_stand_in(soname, symbols, output):
    stem = os.path.join(output, soname)
    functions = "".join(FUNCTION.format(name=name) for name in sorted({n for n, _ in symbols}))
    with open(stem + ".c", "w") as source:
        source.write(SOURCE.format(soname=soname, functions=functions))
    versions = {}
    for name, version in symbols:
        versions.setdefault(version, set()).add(name)
    command = ["gcc", "-shared", "-fPIC", "-w", "-O1", f"-Wl,-soname,{soname}", "-o", stem, stem + ".c"]
    named = {version: names for version, names in versions.items() if version}
    if named:
        with open(stem + ".map", "w") as script:
            for version, names in named.items():
                script.write(f"{version} {{ global: {' '.join(n + ';' for n in sorted(names))} }};\n")
        command.insert(-3, f"-Wl,--version-script={stem}.map")
    subprocess.run(command, check=True)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, output = sys.argv[1:]
    missing = missing_sonames(folder)
    if not missing:
        return
    os.makedirs(output, exist_ok=True)
    wanted = {soname: set() for soname in missing}
    for name, version in undefined_symbols(folder):
        soname = owner_of(name, version, missing)
        if soname:
            wanted[soname].add((name, version))
    for soname in sorted(wanted):
        compile_stand_in(soname, wanted[soname], output)
    with open(os.path.join(output, "gpu_stand_ins_loader.py"), "w") as loader:
        loader.write(LOADER % sorted(wanted))
    print(" ".join(sorted(wanted)))


if __name__ == "__main__":
    main()
