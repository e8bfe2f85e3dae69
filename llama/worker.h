// What main.cpp needs of worker.cpp, and that of rpc.cpp.
#pragma once

#include <string>

void register_rpc();
int worker(int count, char ** words);
void know_weights(const std::string & file);
