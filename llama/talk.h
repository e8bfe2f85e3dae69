// What a person asks, and how each answer ended.
#pragma once

#include "cli-context.h"

#include <string>

// A chat, or a single question, with the server that the context has. `sampling` are fields of each request, in JSON with a
// comma after each. Returns llama-cli's exit status.
int talk(cli_context & context, const std::string & sampling);
