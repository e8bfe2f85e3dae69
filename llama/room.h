// How much the context holds, and what goes into it.
#pragma once

#include "cli-context.h"

#include <functional>
#include <string>

long context_size(cli_context & context); // in tokens; 0: unknown
long largest(cli_context & context);      // the context that the model was made for, in tokens; 0: unknown

// A CTX= in which so many tokens leave a fifth for the answer; no more than the model was made for.
std::string context_for(cli_context & context, long tokens);

constexpr int CUT_OFF = 77, TOO_LONG = 78; // exit statuses: site_scons/zosia/machine/status.py

// For a single question: say why there is no answer, or none to its end. Returns the status.
int fails(int status, const std::string & why, const std::string & remedy);

// A question with those of its files before it that there is room for; `next` gives the text of one after another, `count` in
// all. The host hears of each that is left out, "left NUMBER TOKENS". Returns "" after a failure, if none has room.
std::string with_files(
    cli_context & context, const std::string & question, size_t count, const std::function<std::string()> & next);
