#!/usr/bin/env bash
# tools/gpu_stand_ins.py on libraries made here that need one nobody has.
set -euo pipefail
# shellcheck source=tests/scripts/check.sh
. "$(dirname "${BASH_SOURCE[0]}")/check.sh"

cd "$scratch"
mkdir torch
# NCCL's functions carry no symbol version, cuDNN's do.
echo 'int ncclGetVersion(int* v) { return *v; }' >nccl.c
echo 'int cudnnCreate(void** h) { return h != 0; }' >cudnn.c
echo 'libcudnn.so.9 { global: cudnnCreate; };' >cudnn.map
gcc -shared -fPIC -Wl,-soname,libnccl.so.2 -o libnccl.so nccl.c
gcc -shared -fPIC -Wl,-soname,libcudnn.so.9 -Wl,--version-script=cudnn.map -o libcudnn.so cudnn.c
cat >cuda.c <<'EOT'
int ncclGetVersion(int*);
int cudnnCreate(void**);
int answer(void) { return 42; }
int use_nccl(void) { int v; return ncclGetVersion(&v); }
int use_cudnn(void) { void* h; return cudnnCreate(&h); }
EOT
# RTLD_NOW, as Python loads its modules: every function has to be there.
gcc -shared -fPIC -Wl,-z,now -o torch/libtorch_cuda.so cuda.c -L. -lnccl -lcudnn -Wl,-rpath,"$scratch/nowhere"
echo 'int nothing(void) { return 0; }' >other.c
for other in libtorch_python.so libtorch_nvshmem.so libc10_cuda.so; do gcc -shared -fPIC -o "torch/$other" other.c; done

call() {
  python3 -c 'import ctypes, sys
sys.path.insert(0, sys.argv[1])
if sys.argv[1]: import gpu_stand_ins_loader
library = ctypes.CDLL("torch/libtorch_cuda.so")
print(getattr(library, sys.argv[2])())' "$@"
}

if /sbin/ldconfig -p | grep -E 'libnccl\.so\.2 |libcudnn\.so\.9 ' >/dev/null; then
  # This machine has one of them. The loader is told to look nowhere but in a folder with neither.
  echo 'note: NVIDIA libraries are installed here; they are hidden by other names for this test'
  gcc -shared -fPIC -Wl,-soname,libnccl.so.99 -o libnccl.so nccl.c
  sed -i 's/so\.9/so.99/' cudnn.map
  gcc -shared -fPIC -Wl,-soname,libcudnn.so.99 -Wl,--version-script=cudnn.map -o libcudnn.so cudnn.c
  gcc -shared -fPIC -Wl,-z,now -o torch/libtorch_cuda.so cuda.c -L. -lnccl -lcudnn
  names='libcudnn.so.99 libnccl.so.99'
else
  names='libcudnn.so.9 libnccl.so.2'
fi

exits 1 call '' answer
says err 'cannot open shared object'

exits 0 python3 "$source_dir/tools/gpu_stand_ins.py" torch made
holds "$(cat "$scratch/out")" = "$names"
exits 0 call made answer
holds "$(cat "$scratch/out")" = 42
# With the version that is asked for, though today's glibc takes a library that has none.
exits 0 nm -D --with-symbol-versions "made/${names% *}"
says out "cudnnCreate@@${names% *}"
for use in nccl cudnn; do
  exits 134 call made use_$use
  says err 'is a stand-in made by tools/python_env'
done
says err 'cudnnCreate was called'

# Nothing missing: nothing made.
gcc -shared -fPIC -o torch/libtorch_cuda.so other.c
exits 0 python3 "$source_dir/tools/gpu_stand_ins.py" torch none
holds ! -s "$scratch/out"
holds ! -e none
passed
