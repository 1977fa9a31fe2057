#include "quadrat/base/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <new>

namespace quadrat {

namespace {

/// What the kernel says of a path or of the file there, and would say again. All else comes from
/// what lies beneath it, or from this process's limits.
bool is_of_the_file(int code) {
  switch (code) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case EACCES:
    case EPERM:
      return true;
    default:
      return false;
  }
}

std::string compose(std::string_view action, std::string_view object, std::string_view finding,
                    std::string_view remedy) {
  std::string text = fmt::format("cannot {}", action);
  if (!object.empty()) text += fmt::format(" '{}'", object);
  if (!finding.empty()) text += fmt::format(": {}", finding);
  if (!remedy.empty()) text += fmt::format("; {}", remedy);
  return text;
}

}  // namespace

Error::Error(ErrorKind kind, std::string_view action, std::string_view object,
             std::string_view finding, std::string_view remedy)
    : std::runtime_error(kind == ErrorKind::kUsage ? std::string(finding)
                                                   : compose(action, object, finding, remedy)),
      kind_(kind) {}

Error::Error(ErrorKind kind, const std::string& message)
    : std::runtime_error(message), kind_(kind), shared_(true) {}

Error Error::shared(ErrorKind kind, const std::string& message) { return Error(kind, message); }

UsageError::UsageError(std::string_view sentence) : Error(ErrorKind::kUsage, "", "", sentence) {}

IoError IoError::from_errno(std::string_view action, std::string_view object) {
  const int code = errno;
  std::string_view remedy;
  if (code == ENOSPC || code == EDQUOT) remedy = "free some space and start the same command again";
  if (code == EMFILE) remedy = "raise the limit of open files, ulimit -n";
  if (code == EACCES || code == EPERM || code == EROFS)
    remedy = "check the permissions or name another place";
  if (code == ENOENT || code == ELOOP) remedy = "check the path";
  if (code == ENOTDIR) remedy = "a file is where the path has a folder; name another place";
  if (code == EISDIR) remedy = "a folder is there; name a file";
  IoError error(action, object, std::strerror(code), remedy);
  error.of_storage_ = !is_of_the_file(code);
  return error;
}

std::string message_of(const std::exception& error) {
  const std::string text = error.what();
  if (dynamic_cast<const Error*>(&error) != nullptr) return text;
  const bool is_out_of_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
                                text.find("DefaultCPUAllocator") != std::string::npos;
  if (is_out_of_memory)
    return "out of memory; give the job more, or lower --memory_limit or --batch_size";
  return text.substr(0, text.find('\n'));
}

int exit_status(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return kExitUsage;
    case ErrorKind::kInterrupted:
      return kExitInterrupted;
    default:
      return kExitFailed;
  }
}

}  // namespace quadrat
