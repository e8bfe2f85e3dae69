// What hot.cpp needs of our terminal.
#pragma once

#include <string>

namespace console {

// A line for the host, over the file descriptor that /init has opened for it.
void tell(const std::string & line);

// From now on the answer alone is shown, on this file descriptor, as when standard output was no terminal from the start.
void answer_only(int fd);

} // namespace console
