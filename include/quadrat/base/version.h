#pragma once

#include <string_view>

namespace quadrat {

std::string_view version();     ///< "0.1.0"
std::string_view git_commit();  ///< the commit this was configured from, with "+" where files were
                                ///< changed; may be "unknown"

}  // namespace quadrat
