#pragma once

#define FUSE_USE_VERSION 312
#include <fuse.h>
#include <sys/stat.h>

#include <string>
#include <vector>

namespace quadrat::faults {

/// How a file system of ours is mounted.
struct FuseMount {
  std::string name;    ///< what /proc/mounts says of it
  std::string place;   ///< where
  double cache_s = 1;  ///< how long the kernel may keep names and attributes, as an NFS client does
  int threads = 1;     ///< requests that are served side by side
};

/// Serves `operations` in the foreground until somebody unmounts it. Sets their `init`.
/// @return what main is to return
inline int serve(FuseMount mount, fuse_operations operations) {
  operations.init = [](fuse_conn_info*, fuse_config* config) {
    void* data = fuse_get_context()->private_data;
    config->use_ino = 1;
    config->entry_timeout = config->attr_timeout = static_cast<FuseMount*>(data)->cache_s;
    config->negative_timeout = 0;
    return data;
  };
  std::string options = "allow_other,fsname=" + mount.name;
  if (mount.threads > 1) {
    const std::string count = std::to_string(mount.threads);
    options += ",max_threads=" + count + ",max_idle_threads=" + count;
  }
  std::vector<std::string> words{mount.name, "-f", "-o", options, mount.place};
  if (mount.threads == 1) words.emplace_back("-s");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  return fuse_main(static_cast<int>(arguments.size()), arguments.data(), &operations, &mount);
}

/// An entry for a folder's list. @param next where the list goes on after it; 0: given as a whole
/// @return whether there was room for it
inline bool give_entry(fuse_fill_dir_t fill, void* buffer, const char* name, ino_t inode,
                       mode_t mode, off_t next) {
  struct stat info {};
  info.st_ino = inode;
  info.st_mode = mode;
  return fill(buffer, name, &info, next, static_cast<fuse_fill_dir_flags>(0)) == 0;
}

}  // namespace quadrat::faults
