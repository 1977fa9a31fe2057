// nfsfs: an NFSv3 export seen through FUSE, for machines whose kernel has no NFS client. See kHelp.
#include <fcntl.h>
#include <nfsc/libnfs.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "fuse_mount.h"

namespace {

constexpr const char* kHelp =
    "nfsfs: an NFSv3 export seen through FUSE. Stays in the foreground; umount MOUNT ends it.\n"
    "\n"
    "usage: nfsfs 'nfs://SERVER/EXPORT?nfsport=P&mountport=Q' MOUNT\n"
    "\n"
    "As a hard mount: where the server is gone, operations wait until it is back. Names and "
    "attributes are kept for a\n"
    "second, file contents never beyond an open. No locks.\n";

nfs_context* nfs = nullptr;

nfsfh* handle(const fuse_file_info* file) { return reinterpret_cast<nfsfh*>(file->fh); }

void fill_stat(const nfs_stat_64& from, struct stat* to) {
  *to = {};
  to->st_ino = from.nfs_ino;
  to->st_mode = static_cast<mode_t>(from.nfs_mode);
  to->st_nlink = from.nfs_nlink;
  to->st_uid = static_cast<uid_t>(from.nfs_uid);
  to->st_gid = static_cast<gid_t>(from.nfs_gid);
  to->st_size = static_cast<off_t>(from.nfs_size);
  to->st_blksize = static_cast<blksize_t>(from.nfs_blksize);
  to->st_blocks = static_cast<blkcnt_t>(from.nfs_blocks);
  to->st_mtim = {static_cast<time_t>(from.nfs_mtime), static_cast<long>(from.nfs_mtime_nsec)};
  to->st_atim = {static_cast<time_t>(from.nfs_atime), static_cast<long>(from.nfs_atime_nsec)};
  to->st_ctim = {static_cast<time_t>(from.nfs_ctime), static_cast<long>(from.nfs_ctime_nsec)};
}

int do_getattr(const char* path, struct stat* info, fuse_file_info*) {
  nfs_stat_64 found{};
  const int code = nfs_lstat64(nfs, path, &found);
  if (code < 0) return code;
  fill_stat(found, info);
  return 0;
}

int do_open(const char* path, fuse_file_info* file) {
  nfsfh* opened = nullptr;
  const int code = nfs_open(nfs, path, file->flags & (O_ACCMODE | O_TRUNC | O_APPEND), &opened);
  file->fh = reinterpret_cast<std::uint64_t>(opened);
  return code < 0 ? code : 0;
}

int do_create(const char* path, mode_t mode, fuse_file_info* file) {
  nfsfh* opened = nullptr;
  const int flags = file->flags & (O_ACCMODE | O_TRUNC | O_APPEND | O_EXCL);
  const int code = nfs_open2(nfs, path, flags | O_CREAT, static_cast<int>(mode & 07777), &opened);
  file->fh = reinterpret_cast<std::uint64_t>(opened);
  return code < 0 ? code : 0;
}

int do_read(const char*, char* buffer, std::size_t size, off_t offset, fuse_file_info* file) {
  return nfs_pread(nfs, handle(file), static_cast<std::uint64_t>(offset), size, buffer);
}

int do_write(const char*, const char* buffer, std::size_t size, off_t offset,
             fuse_file_info* file) {
  return nfs_pwrite(nfs, handle(file), static_cast<std::uint64_t>(offset), size,
                    const_cast<char*>(buffer));
}

int do_fsync(const char*, int, fuse_file_info* file) { return nfs_fsync(nfs, handle(file)); }

int do_release(const char*, fuse_file_info* file) {
  nfs_close(nfs, handle(file));
  return 0;
}

int do_truncate(const char* path, off_t size, fuse_file_info* file) {
  if (file != nullptr) return nfs_ftruncate(nfs, handle(file), static_cast<std::uint64_t>(size));
  return nfs_truncate(nfs, path, static_cast<std::uint64_t>(size));
}

int do_rename(const char* from, const char* to, unsigned flags) {
  return flags != 0 ? -EINVAL : nfs_rename(nfs, from, to);
}
int do_unlink(const char* path) { return nfs_unlink(nfs, path); }
int do_rmdir(const char* path) { return nfs_rmdir(nfs, path); }
int do_mkdir(const char* path, mode_t mode) {
  return nfs_mkdir2(nfs, path, static_cast<int>(mode & 07777));
}
int do_chmod(const char* path, mode_t mode, fuse_file_info*) {
  return nfs_chmod(nfs, path, static_cast<int>(mode & 07777));
}

int do_utimens(const char* path, const timespec times[2], fuse_file_info*) {
  timeval values[2] = {{times[0].tv_sec, times[0].tv_nsec / 1000},
                       {times[1].tv_sec, times[1].tv_nsec / 1000}};
  for (int i = 0; i < 2; ++i) {
    if (times[i].tv_nsec == UTIME_NOW) ::gettimeofday(&values[i], nullptr);
  }
  return nfs_utimes(nfs, path, values);
}

int do_readdir(const char* path, void* buffer, fuse_fill_dir_t fill, off_t, fuse_file_info*,
               fuse_readdir_flags) {
  nfsdir* folder = nullptr;
  const int code = nfs_opendir(nfs, path, &folder);
  if (code < 0) return code;
  while (const nfsdirent* entry = nfs_readdir(nfs, folder)) {
    if (!quadrat::faults::give_entry(fill, buffer, entry->name, entry->inode, entry->mode, 0))
      break;
  }
  nfs_closedir(nfs, folder);
  return 0;
}

int do_statfs(const char* path, struct statvfs* info) { return nfs_statvfs(nfs, path, info); }

fuse_operations operations() {
  fuse_operations all{};
  all.getattr = do_getattr;
  all.open = do_open;
  all.create = do_create;
  all.read = do_read;
  all.write = do_write;
  all.fsync = do_fsync;
  all.release = do_release;
  all.truncate = do_truncate;
  all.rename = do_rename;
  all.unlink = do_unlink;
  all.rmdir = do_rmdir;
  all.mkdir = do_mkdir;
  all.chmod = do_chmod;
  all.utimens = do_utimens;
  all.readdir = do_readdir;
  all.statfs = do_statfs;
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs(kHelp, argc == 2 && std::strcmp(argv[1], "--help") == 0 ? stdout : stderr);
    return argc == 2 ? 0 : 1;
  }
  nfs = nfs_init_context();
  nfs_url* url = nfs_parse_url_dir(nfs, argv[1]);
  if (url == nullptr || nfs_mount(nfs, url->server, url->path) != 0) {
    std::fprintf(stderr, "nfsfs: cannot mount '%s': %s\n", argv[1], nfs_get_error(nfs));
    return 2;
  }
  constexpr int kForEver = -1;
  nfs_set_autoreconnect(nfs, kForEver);
  // libnfs serves one thread at a time.
  return quadrat::faults::serve({.name = "nfsfs", .place = argv[2]}, operations());
}
