// What main.cpp needs of worker.cpp.
#pragma once

#include <string>

void register_rpc();
int worker(const std::string & port);
