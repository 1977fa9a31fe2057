// faultfs: a folder seen through FUSE, slower and less reliable than it is. See kHelp.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "faults.h"
#include "fuse_mount.h"

namespace {

using quadrat::faults::Counts;
using quadrat::faults::Faults;
using quadrat::faults::FuseMount;
using quadrat::faults::give_entry;

constexpr const char* kHelp =
    "faultfs: a folder seen through FUSE, with latency and faults. Stays in the foreground; umount "
    "MOUNT ends it.\n"
    "\n"
    "usage: faultfs [options] FOLDER MOUNT\n"
    "  --latency_ms X    every operation that reaches the file system takes X ms longer (1: a fast "
    "NFS server)\n"
    "  --control FILE    read again whenever it changes (looked at every 20 ms); lines:\n"
    "                      latency_ms X | fail OP ERRNO [TEXT IN PATH] | room_bytes N | "
    "short_reads | no_locks\n"
    "                    OP: getattr readdir open create read write flush fsync rename unlink "
    "mkdir ...\n"
    "                    ERRNO: ENOSPC EIO ESTALE EDQUOT EACCES EROFS\n"
    "  --counts FILE     who did how many operations, as lines WHO OP COUNT, rewritten twice a "
    "second and at the end;\n"
    "                    WHO is rankN under mpirun, else the program's name\n"
    "  --cache_s X       how long the kernel may keep names and attributes, as an NFS client does "
    "(default 1; 0: never)\n"
    "\n"
    "  faultfs --latency_ms 1 --counts /tmp/counts tiles /mnt/slow & ... ; umount /mnt/slow\n";

struct State {
  int root = -1;
  std::string control, counts_path, latency_line;
  Faults faults;
  Counts counts;
};
State state;

/// Relative to the folder underneath.
const char* below(const char* path) { return path[1] == '\0' ? "." : path + 1; }

int begin(const char* operation, const char* path) {
  state.counts.add(operation, fuse_get_context()->pid);
  return -state.faults.before(operation, path == nullptr ? "" : path);
}

int result(int code) { return code < 0 ? -errno : 0; }

int do_getattr(const char* path, struct stat* info, fuse_file_info* file) {
  if (const int failed = begin("getattr", path)) return failed;
  if (file != nullptr) return result(::fstat(static_cast<int>(file->fh), info));
  return result(::fstatat(state.root, below(path), info, AT_SYMLINK_NOFOLLOW));
}

int do_readlink(const char* path, char* buffer, std::size_t size) {
  if (const int failed = begin("readlink", path)) return failed;
  const ssize_t length = ::readlinkat(state.root, below(path), buffer, size - 1);
  if (length < 0) return -errno;
  buffer[length] = '\0';
  return 0;
}

int do_mkdir(const char* path, mode_t mode) {
  if (const int failed = begin("mkdir", path)) return failed;
  return result(::mkdirat(state.root, below(path), mode));
}

int do_unlink(const char* path) {
  if (const int failed = begin("unlink", path)) return failed;
  return result(::unlinkat(state.root, below(path), 0));
}

int do_rmdir(const char* path) {
  if (const int failed = begin("rmdir", path)) return failed;
  return result(::unlinkat(state.root, below(path), AT_REMOVEDIR));
}

int do_symlink(const char* target, const char* path) {
  if (const int failed = begin("symlink", path)) return failed;
  return result(::symlinkat(target, state.root, below(path)));
}

int do_rename(const char* from, const char* to, unsigned flags) {
  if (const int failed = begin("rename", from)) return failed;
  return result(::renameat2(state.root, below(from), state.root, below(to), flags));
}

int do_link(const char* from, const char* to) {
  if (const int failed = begin("link", from)) return failed;
  return result(::linkat(state.root, below(from), state.root, below(to), 0));
}

int do_chmod(const char* path, mode_t mode, fuse_file_info*) {
  if (const int failed = begin("chmod", path)) return failed;
  return result(::fchmodat(state.root, below(path), mode, 0));
}

int do_chown(const char* path, uid_t user, gid_t group, fuse_file_info*) {
  if (const int failed = begin("chown", path)) return failed;
  return result(::fchownat(state.root, below(path), user, group, AT_SYMLINK_NOFOLLOW));
}

int do_truncate(const char* path, off_t size, fuse_file_info* file) {
  if (const int failed = begin("truncate", path)) return failed;
  if (file != nullptr) return result(::ftruncate(static_cast<int>(file->fh), size));
  const int opened = ::openat(state.root, below(path), O_WRONLY | O_CLOEXEC);
  if (opened < 0) return -errno;
  const int done = result(::ftruncate(opened, size));
  ::close(opened);
  return done;
}

int do_utimens(const char* path, const timespec times[2], fuse_file_info*) {
  if (const int failed = begin("utimens", path)) return failed;
  return result(::utimensat(state.root, below(path), times, AT_SYMLINK_NOFOLLOW));
}

int keep(int descriptor, fuse_file_info* file) {
  if (descriptor < 0) return -errno;
  file->fh = static_cast<std::uint64_t>(descriptor);
  // The kernel takes a short read for the end of the file unless it is told that it is none.
  file->direct_io = state.faults.short_reads() ? 1 : 0;
  return 0;
}

int do_open(const char* path, fuse_file_info* file) {
  if (const int failed = begin("open", path)) return failed;
  return keep(::openat(state.root, below(path), (file->flags & ~O_NOFOLLOW) | O_CLOEXEC), file);
}

int do_create(const char* path, mode_t mode, fuse_file_info* file) {
  if (const int failed = begin("create", path)) return failed;
  return keep(::openat(state.root, below(path), file->flags | O_CREAT | O_CLOEXEC, mode), file);
}

int do_read(const char* path, char* buffer, std::size_t size, off_t offset, fuse_file_info* file) {
  if (const int failed = begin("read", path)) return failed;
  if (file->direct_io != 0 && size > 1) size /= 2;
  const ssize_t got = ::pread(static_cast<int>(file->fh), buffer, size, offset);
  return got < 0 ? -errno : static_cast<int>(got);
}

int do_write(const char* path, const char* buffer, std::size_t size, off_t offset,
             fuse_file_info* file) {
  if (const int failed = begin("write", path)) return failed;
  const std::size_t room = state.faults.take_room(size);
  if (room == 0 && size > 0) return -ENOSPC;
  const ssize_t written = ::pwrite(static_cast<int>(file->fh), buffer, room, offset);
  return written < 0 ? -errno : static_cast<int>(written);
}

int do_flush(const char* path, fuse_file_info* file) {
  // An NFS client has nothing to send when a file that was only read is closed.
  return (file->flags & O_ACCMODE) == O_RDONLY ? 0 : begin("flush", path);
}

int do_release(const char*, fuse_file_info* file) {
  ::close(static_cast<int>(file->fh));
  return 0;
}

int do_fsync(const char* path, int, fuse_file_info* file) {
  if (const int failed = begin("fsync", path)) return failed;
  return result(::fsync(static_cast<int>(file->fh)));
}

int do_lock(const char* path, fuse_file_info* file, int command, struct flock* lock) {
  // Every close unlocks, whether or not anything was locked.
  if (lock->l_type == F_UNLCK) return 0;
  if (const int failed = begin("lock", path)) return failed;
  if (state.faults.no_locks()) return -ENOLCK;
  // Open file description locks, since all requests come from this one process.
  lock->l_pid = 0;
  const int own = command == F_GETLK   ? F_OFD_GETLK
                  : command == F_SETLK ? F_OFD_SETLK
                                       : F_OFD_SETLKW;
  return result(::fcntl(static_cast<int>(file->fh), own, lock));
}

int do_opendir(const char* path, fuse_file_info* file) {
  if (const int failed = begin("opendir", path)) return failed;
  const int descriptor = ::openat(state.root, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return -errno;
  DIR* folder = ::fdopendir(descriptor);
  if (folder == nullptr) return -errno;
  file->fh = reinterpret_cast<std::uint64_t>(folder);
  return 0;
}

int do_readdir(const char* path, void* buffer, fuse_fill_dir_t fill, off_t offset,
               fuse_file_info* file, fuse_readdir_flags) {
  if (const int failed = begin("readdir", path)) return failed;
  DIR* folder = reinterpret_cast<DIR*>(file->fh);
  ::seekdir(folder, offset);
  while (const dirent* entry = ::readdir(folder)) {
    const auto mode = static_cast<mode_t>(DTTOIF(entry->d_type));
    if (!give_entry(fill, buffer, entry->d_name, entry->d_ino, mode, ::telldir(folder))) break;
  }
  return 0;
}

int do_releasedir(const char*, fuse_file_info* file) {
  ::closedir(reinterpret_cast<DIR*>(file->fh));
  return 0;
}

int do_fsyncdir(const char* path, int, fuse_file_info* file) {
  if (const int failed = begin("fsync", path)) return failed;
  return result(::fsync(::dirfd(reinterpret_cast<DIR*>(file->fh))));
}

int do_statfs(const char* path, struct statvfs* info) {
  if (const int failed = begin("statfs", path)) return failed;
  return result(::fstatvfs(state.root, info));
}

fuse_operations operations() {
  fuse_operations all{};
  all.getattr = do_getattr;
  all.readlink = do_readlink;
  all.mkdir = do_mkdir;
  all.unlink = do_unlink;
  all.rmdir = do_rmdir;
  all.symlink = do_symlink;
  all.rename = do_rename;
  all.link = do_link;
  all.chmod = do_chmod;
  all.chown = do_chown;
  all.truncate = do_truncate;
  all.utimens = do_utimens;
  all.open = do_open;
  all.create = do_create;
  all.read = do_read;
  all.write = do_write;
  all.flush = do_flush;
  all.release = do_release;
  all.fsync = do_fsync;
  all.lock = do_lock;
  all.opendir = do_opendir;
  all.readdir = do_readdir;
  all.releasedir = do_releasedir;
  all.fsyncdir = do_fsyncdir;
  all.statfs = do_statfs;
  return all;
}

/// Looks at the control file and writes the counts, until told to end.
void attend(const std::atomic<bool>& ending) {
  std::string last = "\n";
  for (int round = 0; !ending; ++round) {
    std::string text;
    if (!state.control.empty()) {
      std::ifstream in(state.control);
      text.assign(std::istreambuf_iterator<char>(in), {});
    }
    if (text != last) {
      const std::string odd = state.faults.set(state.latency_line + text);
      if (!odd.empty()) std::fprintf(stderr, "faultfs: cannot understand '%s'\n", odd.c_str());
      last = text;
    }
    constexpr int kRoundsPerCount = 25;
    if (!state.counts_path.empty() && round % kRoundsPerCount == 0)
      std::ofstream(state.counts_path) << state.counts.text();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  if (!state.counts_path.empty()) std::ofstream(state.counts_path) << state.counts.text();
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder;
  // Requests wait for their latency side by side, as they do on a network.
  FuseMount mount{.name = "faultfs", .place = {}, .threads = 64};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help" || word == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    const bool is_option =
        word == "--latency_ms" || word == "--control" || word == "--counts" || word == "--cache_s";
    if ((is_option && i + 1 == argc) || (!is_option && word.starts_with('-')) ||
        (!is_option && !mount.place.empty())) {
      std::fprintf(stderr, "faultfs: cannot use '%s' (see --help)\n", argv[i]);
      return 1;
    }
    if (word == "--latency_ms") {
      state.latency_line = "latency_ms " + std::string(argv[++i]) + "\n";
    } else if (word == "--control") {
      state.control = std::filesystem::absolute(argv[++i]);
    } else if (word == "--counts") {
      state.counts_path = std::filesystem::absolute(argv[++i]);
    } else if (word == "--cache_s") {
      mount.cache_s = std::strtod(argv[++i], nullptr);
    } else {
      (folder.empty() ? folder : mount.place) = word;
    }
  }
  if (mount.place.empty()) {
    std::fprintf(stderr, "faultfs: a folder and a place to mount it are needed (see --help)\n");
    return 1;
  }
  state.root = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (state.root < 0) {
    std::fprintf(stderr, "faultfs: cannot open '%s': %s\n", folder.c_str(), std::strerror(errno));
    return 2;
  }
  ::umask(0);
  std::atomic<bool> ending{false};
  std::thread attendant(attend, std::cref(ending));
  const int status = serve(mount, operations());
  ending = true;
  attendant.join();
  return status;
}
