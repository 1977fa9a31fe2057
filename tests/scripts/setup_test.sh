#!/usr/bin/env bash
# tools/setup, without a network: what it plans, and what it does with wheels made here.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/check.sh"

setup=$source_dir/tools/setup
export QUADRAT_DEPS=$scratch/deps
site=$QUADRAT_DEPS/site
unset CUDACXX CUDA_HOME

# --- the command line ---
exits 0 "$setup" --help
says out 'usage: tools/setup'
exits 1 "$setup" --cdua
says err "unknown option '--cdua'"

# --- the plan ---
exits 0 "$setup" --dry_run --no_cuda
says out 'for CPUs, into'
says out torch==2.11.0
says_not out cusparselt
holds ! -e "$QUADRAT_DEPS"

printf '#!/bin/sh\necho "Cuda compilation tools, release 13.0, V13.0.1"\n' >"$scratch/nvcc"
mkdir -p "$scratch/toolkit/bin" "$scratch/toolkit/lib64"
install -m 755 "$scratch/nvcc" "$scratch/toolkit/bin/nvcc"
exits 0 env CUDACXX="$scratch/toolkit/bin/nvcc" "$setup" --dry_run
says out "for CPUs and GPUs, with the CUDA toolkit in $scratch/toolkit"
says out nvidia-cusparselt-cu13==0.8.0
says_not out nvidia-cuda-nvcc

sed -i 's/13\.0/12.8/g' "$scratch/toolkit/bin/nvcc"
exits 0 env CUDACXX="$scratch/toolkit/bin/nvcc" "$setup" --dry_run
says_not out "with the CUDA toolkit in $scratch/toolkit"

# --- other systems ---
printf 'ID=fedora\nVERSION_ID=41\n' >"$scratch/fedora"
exits 2 env QUADRAT_OS_RELEASE="$scratch/fedora" "$setup"
says err "this system is 'fedora 41'"
printf 'ID=debian\nVERSION_ID="11"\n' >"$scratch/bullseye"
exits 2 env QUADRAT_OS_RELEASE="$scratch/bullseye" "$setup"
says err 'Debian 12 or Ubuntu 24.04 at least'
printf 'ID=ubuntu\nVERSION_ID="24.04"\n' >"$scratch/noble"
exits 0 env QUADRAT_OS_RELEASE="$scratch/noble" "$setup" --dry_run --no_cuda
holds ! -e "$QUADRAT_DEPS"

# --- installing, where the packages are there: from an index of three small wheels ---
exits 0 "$setup" --dry_run --no_cuda
if grep -q '^packages: all' "$scratch/out"; then
  # wheel NAME VERSION TAG FILE...: a wheel that holds those files.
  wheel() {
    local name=$1 version=$2 tag=$3
    shift 3
    python3 - "$scratch/index/$name-$version-$tag.whl" "$name-$version.dist-info" "$tag" "$@" <<'EOT'
import sys, zipfile
path, info, tag, *files = sys.argv[1:]
name, version = info.removesuffix(".dist-info").split("-")
with zipfile.ZipFile(path, "w") as wheel:
    for file in files:
        wheel.writestr(file, version)
    wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
    wheel.writestr(f"{info}/RECORD", "")
EOT
  }
  mkdir "$scratch/index"
  for python in 310 311 312 313 314; do
    wheel torch 2.11.0 "cp$python-cp$python-manylinux_2_28_x86_64" torch/lib/libtorch_cpu.so torch/new torchgen/x
  done
  wheel nvidia_cuda_runtime 13.0.96 py3-none-manylinux2014_x86_64 nvidia/cu13/lib/libcudart.so.13
  export PIP_NO_INDEX=1 PIP_FIND_LINKS=$scratch/index PIP_CONFIG_FILE=/dev/null

  # One wheel cannot be had: it says which, and what was done stays.
  exits 2 "$setup" --no_cuda
  says err 'could not download nvidia-cuda-cupti==13.0.85'
  holds -e "$site/torch-2.11.0.dist-info/WHEEL"
  holds -e "$site/torch/new"

  # Going on from there: what was done is not done again.
  wheel nvidia_cuda_cupti 13.0.85 py3-none-manylinux_2_25_x86_64 nvidia/cu13/lib/libcupti.so.13
  touch "$site/torch/kept"
  exits 0 "$setup" --no_cuda
  says_not err torch==
  says err nvidia-cuda-cupti==13.0.85
  holds -e "$site/torch/kept"
  holds -e "$site/nvidia/cu13/lib/libcudart.so.13"
  holds -e "$site/nvidia/cu13/lib/libcupti.so.13"
  holds "$(readlink "$site/nvidia/cu13/lib/libcudart.so")" = libcudart.so.13

  exits 0 "$setup" --no_cuda
  says err 'all is there already'

  # Ended between unpacking and the mark that says so, and another version's leftovers.
  mv "$site/torch-2.11.0.dist-info" "$site/torch-2.10.0.dist-info"
  mkdir -p "$site/.partial/files/torch"
  touch "$site/torch/old" "$site/.partial/files/torch/half"
  exits 0 "$setup" --no_cuda
  says err torch==2.11.0
  holds ! -e "$site/torch/old"
  holds ! -e "$site/torch/half"
  holds ! -e "$site/.partial"
  holds ! -e "$site/torch-2.10.0.dist-info"
  holds "$(cat "$site/torch/new")" = 2.11.0

  # A damaged wheel is no wheel.
  rm -r "$site"/nvidia_cuda_cupti-*
  truncate -s 100 "$scratch"/index/nvidia_cuda_cupti*
  exits 2 "$setup" --no_cuda
  holds ! -e "$site/nvidia_cuda_cupti-13.0.85.dist-info"

  # A toolkit that the loader does not know of is linked to where LibTorch looks.
  if ! /sbin/ldconfig -p | grep 'libcusolver\.so\.12 ' >/dev/null; then
    sed -i 's/12\.8/13.0/g' "$scratch/toolkit/bin/nvcc"
    for library in cublas.so.13 cublasLt.so.13 cudnn.so.9 cudnn_ops.so.9 nccl.so.2 cufft.so.12 curand.so.10 \
        cusolver.so.12 cusparse.so.12 nvJitLink.so.13 nvrtc.so.13; do
      touch "$scratch/toolkit/lib64/lib$library"
    done
    rm "$scratch"/index/nvidia_cuda_cupti*
    wheel nvidia_cuda_cupti 13.0.85 py3-none-manylinux_2_25_x86_64 nvidia/cu13/lib/libcupti.so.13
    wheel nvidia_cusparselt_cu13 0.8.0 py3-none-manylinux2014_x86_64 nvidia/cusparselt/lib/libcusparseLt.so.0
    wheel nvidia_nvshmem_cu13 3.4.5 py3-none-manylinux2014_x86_64 nvidia/nvshmem/lib/libnvshmem_host.so.3
    wheel nvidia_cufile 1.15.1.6 py3-none-manylinux2014_x86_64 nvidia/cu13/lib/libcufile.so.0
    exits 0 env CUDACXX="$scratch/toolkit/bin/nvcc" "$setup"
    holds "$(readlink "$site/nvidia/cu13/lib/libcublas.so.13")" = "$scratch/toolkit/lib64/libcublas.so.13"
    holds -e "$site/nvidia/cu13/lib/libcudnn_ops.so.9"
    holds -e "$site/nvidia/cusparselt/lib/libcusparseLt.so.0"
  fi
elif [ "${CI-}" = true ]; then
  fail 'packages are missing: run tools/setup first'
fi
passed
