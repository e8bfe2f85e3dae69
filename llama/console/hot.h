// What hot.cpp and talk.cpp need of our terminal.
#pragma once

#include <string>

namespace console {

// A line for the host, over the file descriptor that /init has opened for it.
void tell(const std::string & line);

// Nothing is under way until the host says so: what was logged is written, which the next change of colour then need not do
// (it starts a thread), and there are no signs of life until `go_on`.
void rest();
void go_on();

// Call this once, when the first prompt is shown.
void at_prompt(void (*call)());

// From now on the answer alone is shown, on this file descriptor, as when standard output was no terminal from the start.
void answer_only(int fd);

// The program ends with this status where it would end with 1: for a single question, of which the reason was said.
void end_with(int status);

// There is no terminal: requests will come to the server. Until `begin` the host gets signs of life.
void serve();
bool serving();

// The model is loaded, and the host learns it.
void begin();

// The machine resumes with a chat in it: set its clock, add entropy, note its zone, and tell the host.
int wake(const std::string & seconds, const std::string & entropy, const std::string & zone);

// In the server: have the zone that the last `wake` has noted.
void set_zone();

} // namespace console
